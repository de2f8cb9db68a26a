"""Milvault backs up, proves and restores Milvus collections.

Example:
    ```python
    import asyncio
    from milvault import BackupManager

    async def main():
        async with BackupManager.connect("http://localhost:19530", "./milvus_backups") as manager:
            result = await manager.create_backup("articles")
            result.raise_for_error()
            print(result)

    asyncio.run(main())
    ```

Importing this package loads no server client, no terminal library and no compiled code; they come when first used.
"""

from typing import TYPE_CHECKING, Any

from .config import BackupRecoveryConfig, MilvusStorage
from .connection import CollectionManager, ConnectionManager
from .enums import (
    AutoIdPolicy,
    BackupOwner,
    BackupState,
    BackupStorageType,
    BackupType,
    ChecksumAlgorithm,
    ConflictPolicy,
    LinkPolicy,
    RestoreProof,
    RestoreVia,
    VerificationType,
)
from .errors import (
    BackupAlreadyExistsError,
    BackupCorruptedError,
    BackupError,
    BackupInProgressError,
    BackupNotFoundError,
    BackupRecoveryError,
    BackupStorageError,
    BackupTimeoutError,
    CollectionNotFoundError,
    DatabaseLockedError,
    ForeignBackupError,
    InsufficientStorageError,
    InvalidArgumentError,
    OperationTimeoutError,
    PartitionNotFoundError,
    ReadOnlyRepositoryError,
    RestoreError,
    RestoreTimeoutError,
    RestoreValidationError,
    SchemaIncompatibleError,
)
from .manager import BackupManager
from .params import BackupParams, RestoreParams, VerificationParams
from .progress import BackupProgress, ProgressStream
from .results import (
    BackupList,
    BackupMetadata,
    BackupResult,
    BackupSet,
    Check,
    CheckResult,
    CopyResult,
    DamagedBackup,
    ExportResult,
    RestoreResult,
    VerificationResult,
)

if TYPE_CHECKING:
    from .helpers import ChecksumCalculator, CompressionHandler
    from .reader import BackupReader

__all__ = [
    "AutoIdPolicy",
    "BackupAlreadyExistsError",
    "BackupCorruptedError",
    "BackupError",
    "BackupInProgressError",
    "BackupList",
    "BackupManager",
    "BackupMetadata",
    "BackupNotFoundError",
    "BackupOwner",
    "BackupParams",
    "BackupProgress",
    "BackupReader",
    "BackupRecoveryConfig",
    "BackupRecoveryError",
    "BackupResult",
    "BackupSet",
    "BackupState",
    "BackupStorageError",
    "BackupStorageType",
    "BackupTimeoutError",
    "BackupType",
    "Check",
    "CheckResult",
    "ChecksumAlgorithm",
    "ChecksumCalculator",
    "CollectionManager",
    "CollectionNotFoundError",
    "CompressionHandler",
    "ConflictPolicy",
    "ConnectionManager",
    "CopyResult",
    "DamagedBackup",
    "DatabaseLockedError",
    "ExportResult",
    "ForeignBackupError",
    "InsufficientStorageError",
    "InvalidArgumentError",
    "LinkPolicy",
    "MilvusStorage",
    "OperationTimeoutError",
    "PartitionNotFoundError",
    "ProgressStream",
    "ReadOnlyRepositoryError",
    "RestoreError",
    "RestoreParams",
    "RestoreProof",
    "RestoreResult",
    "RestoreTimeoutError",
    "RestoreValidationError",
    "RestoreVia",
    "SchemaIncompatibleError",
    "VerificationParams",
    "VerificationResult",
    "VerificationType",
]

_LATER = {"BackupReader": ".reader", "ChecksumCalculator": ".helpers", "CompressionHandler": ".helpers"}
"""Where to find what few programs need: imported when first asked for."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from ._core import version

        return version()
    if name in _LATER:
        import importlib

        return getattr(importlib.import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
