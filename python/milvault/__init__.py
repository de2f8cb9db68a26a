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

Importing this package loads nothing else: its names come when first used, and with them neither a server client nor a
terminal library nor compiled code of its own, which wait until they are needed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from .helpers import ChecksumCalculator, CompressionHandler
    from .manager import BackupManager
    from .params import BackupParams, RestoreParams, VerificationParams
    from .progress import BackupProgress, ProgressStream
    from .reader import BackupReader
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

_HOMES = {
    "config": (
        "BackupRecoveryConfig",
        "MilvusStorage",
    ),
    "connection": (
        "CollectionManager",
        "ConnectionManager",
    ),
    "enums": (
        "AutoIdPolicy",
        "BackupOwner",
        "BackupState",
        "BackupStorageType",
        "BackupType",
        "ChecksumAlgorithm",
        "ConflictPolicy",
        "LinkPolicy",
        "RestoreProof",
        "RestoreVia",
        "VerificationType",
    ),
    "errors": (
        "BackupAlreadyExistsError",
        "BackupCorruptedError",
        "BackupError",
        "BackupInProgressError",
        "BackupNotFoundError",
        "BackupRecoveryError",
        "BackupStorageError",
        "BackupTimeoutError",
        "CollectionNotFoundError",
        "DatabaseLockedError",
        "ForeignBackupError",
        "InsufficientStorageError",
        "InvalidArgumentError",
        "OperationTimeoutError",
        "PartitionNotFoundError",
        "ReadOnlyRepositoryError",
        "RestoreError",
        "RestoreTimeoutError",
        "RestoreValidationError",
        "SchemaIncompatibleError",
    ),
    "helpers": (
        "ChecksumCalculator",
        "CompressionHandler",
    ),
    "manager": ("BackupManager",),
    "params": (
        "BackupParams",
        "RestoreParams",
        "VerificationParams",
    ),
    "progress": (
        "BackupProgress",
        "ProgressStream",
    ),
    "reader": ("BackupReader",),
    "results": (
        "BackupList",
        "BackupMetadata",
        "BackupResult",
        "BackupSet",
        "Check",
        "CheckResult",
        "CopyResult",
        "DamagedBackup",
        "ExportResult",
        "RestoreResult",
        "VerificationResult",
    ),
}
"""Modules, and what users import of them: each comes when it is first asked for."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__version__":
        from ._core import version

        return version()
    if name in _HOMES:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME_OF:
        found = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_HOMES})
