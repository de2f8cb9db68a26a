"""What a `BackupManager` does, each sort of it in a file: making, looking, reading, restoring, keeping.

An operation checks what it is given, asks the core, and makes a result of the answer. `BackupManager` is all of them in
one class, and what they work with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from milvault._engine import Engine
    from milvault.config import BackupRecoveryConfig
    from milvault.connection import ConnectionManager
    from milvault.progress import BackupProgress, ProgressStream

    ProgressSink = Callable[[BackupProgress], Any] | ProgressStream | bool | None


class Operations:
    """What every operation works with; `BackupManager` fills it in."""

    connection_manager: ConnectionManager | None
    config: BackupRecoveryConfig
    _engine: Engine
