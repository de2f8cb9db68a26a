"""What calls return. All frozen, with `to_dict()`, a short `repr`, and a table in notebooks.

Sizes ending in `_mb` are in units of 1024² bytes; times are in UTC.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from ._metadata import BackupList, BackupMetadata, DamagedBackup, read_metadata
from ._model import BYTES_PER_MB, Result, UtcDatetime
from .display import html_grid
from .enums import BackupState, BackupStorageType, VerificationType
from .errors import BackupError, BackupRecoveryError

__all__ = [
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
    "read_metadata",
]

for _class in (BackupList, BackupMetadata, DamagedBackup):
    _class.__module__ = __name__  # where users find them, and pickles too


class VerificationResult(Result):
    """What a verification found. Damage is a finding, not an exception.

    Attributes:
        success: Whether the backup is whole.
        verification_type: How it was proven.
        checksum_valid: Whether all checksums match; `None` where they were not checked.
        deep_verification_passed: The outcome of a trial restore; `None` where there was none.
        files_verified: How many files were checked.
        files_failed: The damaged or missing ones, as paths within the backup.
        errors: Everything that is wrong.
        warnings: What is odd but harmless.
        verification_time_ms: Milliseconds it took.
        verified_at: When it ended, UTC.
        details: Whatever else was learned.
    """

    _derived: ClassVar[tuple[str, ...]] = ("has_errors", "has_warnings")
    _shown: ClassVar[tuple[str, ...]] = (
        "success",
        "verification_type",
        "files_verified",
        "files_failed",
        "errors",
        "warnings",
        "verification_time_ms",
        "verified_at",
    )

    success: bool
    verification_type: VerificationType = VerificationType.CHECKSUM
    checksum_valid: bool | None = None
    deep_verification_passed: bool | None = None
    files_verified: int = 0
    files_failed: list[str] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    verification_time_ms: float = 0.0
    verified_at: UtcDatetime
    details: dict[str, Any] = Field(default_factory=dict)

    @property
    def has_errors(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.errors)

    @property
    def has_warnings(self) -> bool:
        """Whether anything is odd."""
        return bool(self.warnings)


class _Outcome(Result):
    """A result that may say that the work failed while it ran, and then carries the error."""

    success: bool
    error_message: str | None = None
    error: BackupRecoveryError | None = Field(default=None, exclude=True, repr=False)

    def raise_for_error(self) -> None:
        """Raises the error that the work ended with, if it did.

        Raises:
            BackupRecoveryError: The same typed error as `error`.
        """
        if self.error is not None:
            raise self.error

    def to_dict(self) -> dict[str, Any]:
        """All fields and derived values as JSON-ready values; a failed one has `error` with class, kind and message."""
        values = super().to_dict()
        values["error"] = None if self.error is None else self.error.to_dict()
        return values


class BackupResult(_Outcome):
    """How a backup went.

    Attributes:
        success: Whether it is there, whole.
        backup_id: Its id; where it failed, the one it would have had, if it got that far.
        backup_name: Its name.
        collection_name: The collection.
        database: The database that it is in.
        storage_type: How it is stored.
        storage_path: Where it is; where it failed, the repository.
        size_bytes: Bytes of its rows in memory (Arrow).
        row_count: Rows.
        execution_time_ms: Milliseconds from call to return.
        state: `COMPLETED`, `VERIFIED`, `FAILED` or `CANCELED`.
        error_message: What went wrong while it ran.
        warnings: What to know about it, such as that writers were active.
        metadata: The manifest; `None` where it failed.
        verification: What the verification after it found, where there was one.
        timings: Seconds by phase.
        error: The typed error behind `error_message`.
    """

    _derived: ClassVar[tuple[str, ...]] = ("size_mb", "execution_time_seconds")
    _shown: ClassVar[tuple[str, ...]] = (
        "success",
        "backup_id",
        "backup_name",
        "collection_name",
        "row_count",
        "state",
        "storage_path",
        "error_message",
        "warnings",
    )

    backup_id: str | None = None
    backup_name: str | None = None
    collection_name: str
    database: str = "default"
    storage_type: BackupStorageType = BackupStorageType.LOCAL_FILE
    storage_path: str | None = None
    size_bytes: int = 0
    row_count: int = 0
    execution_time_ms: float = 0.0
    state: BackupState
    warnings: list[str] = Field(default_factory=list)
    metadata: BackupMetadata | None = None
    verification: VerificationResult | None = None
    timings: dict[str, float] = Field(default_factory=dict)

    @property
    def size_mb(self) -> float:
        """`size_bytes` in units of 1024² bytes."""
        return self.size_bytes / BYTES_PER_MB

    @property
    def execution_time_seconds(self) -> float:
        """`execution_time_ms` in seconds."""
        return self.execution_time_ms / 1000


class BackupSet(Result):
    """How backing several collections up went. One that failed did not stop the others.

    Attributes:
        success: Whether all are there, whole.
        name: The name that the backups share; `None` where each has one of its own.
        backups: How each went, in the order in which they were made.
        storage_path: Where it is noted what belongs together, of native backups of everything; else `None`.
        access: The server's `users`, `roles` and `grants`, as they are noted there. No passwords: Milvus tells none.
        warnings: What of that could not be done.
        execution_time_ms: Milliseconds from call to return.

    Example:
        ```python
        backups = await manager.create_backups("films, shop.*", name="before the move")
        for failed in backups.failed:
            print(failed.database, failed.collection_name, failed.error_message)
        backups.raise_for_error()
        ```
    """

    _derived: ClassVar[tuple[str, ...]] = ("row_count", "size_bytes", "execution_time_seconds")
    _shown: ClassVar[tuple[str, ...]] = ("success", "name")

    success: bool
    name: str | None = None
    backups: list[BackupResult]
    storage_path: str | None = None
    access: dict[str, Any] | None = None
    warnings: list[str] = Field(default_factory=list)
    execution_time_ms: float = 0.0

    @property
    def succeeded(self) -> list[BackupResult]:
        """Those that are there, whole."""
        return [backup for backup in self.backups if backup.success]

    @property
    def failed(self) -> list[BackupResult]:
        """Those that are not."""
        return [backup for backup in self.backups if not backup.success]

    @property
    def row_count(self) -> int:
        """Rows in the backups that are there."""
        return sum(backup.row_count for backup in self.succeeded)

    @property
    def size_bytes(self) -> int:
        """Bytes in memory (Arrow) of the rows in the backups that are there."""
        return sum(backup.size_bytes for backup in self.succeeded)

    @property
    def execution_time_seconds(self) -> float:
        """`execution_time_ms` in seconds."""
        return self.execution_time_ms / 1000

    def raise_for_error(self) -> None:
        """Raises if one failed.

        Raises:
            BackupRecoveryError: The error of the one that failed; where several did, a `BackupError` that names them
                all, and in its `context` what became of each, with the first one's error as its cause.
        """
        errors = [(f"{each.database}.{each.collection_name}", each.error) for each in self.failed if each.error]
        if len(errors) == 1:
            raise errors[0][1]
        if errors:
            reasons = {name: str(error) for name, error in errors}
            parts = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
            message = f"{len(errors)} of {len(self.backups)} collections were not backed up: {parts}"
            raise BackupError(message, context={"failed": reasons}) from errors[0][1]

    def to_dict(self) -> dict[str, Any]:
        """All fields and derived values as JSON-ready values; each backup as its own `to_dict()`."""
        return {**super().to_dict(), "backups": [backup.to_dict() for backup in self.backups]}

    def __repr__(self) -> str:
        parts = [f"{len(self.succeeded)} of {len(self.backups)} backed up", f"row_count={self.row_count}"]
        if self.name is not None:
            parts.append(f"name={self.name!r}")
        if self.failed:
            parts.append(f"failed={[f'{each.database}.{each.collection_name}' for each in self.failed]}")
        return f"BackupSet({', '.join(parts)})"

    def _repr_html_(self) -> str:
        header = ("database", "collection", "backup id", "name", "state", "rows", "MiB", "seconds", "error")
        rows = [
            (
                each.database,
                each.collection_name,
                each.backup_id,
                each.backup_name,
                each.state,
                each.row_count,
                each.size_mb,
                each.execution_time_seconds,
                each.error_message,
            )
            for each in self.backups
        ]
        return html_grid(f"{len(self.succeeded)} of {len(self.backups)} collections backed up", header, rows)


class RestoreResult(_Outcome):
    """How a restore went.

    Attributes:
        success: Whether the target is there, whole and proven; of a dry run, whether the restore could begin.
        backup_id: The backup it came from.
        source_collection_name: The collection that the backup was made of.
        target_collection_name: The collection that was to be made.
        target_database: The database that it is in.
        rows_restored: Rows in the target.
        partitions_restored: Partitions in the target.
        failed_partitions: Partitions that were left out, where `skip_failed_partitions` allowed it.
        execution_time_ms: Milliseconds from call to return.
        verification_passed: Whether the rows were proven; `None` where that was not asked for.
        verification_details: How they were proven.
        error_message: What went wrong while it ran; the collection that was there is untouched then.
        warnings: What to know about it.
        dry_run: Whether nothing was done but to check.
        plan: Of a dry run, what the restore would do: `action` (`CREATE`, `REPLACE`, `INSERT`), `rows`, `bytes`,
            `partitions` with their rows, `indexes`, `aliases`, `load`, `proof`, and `conflicts`, the keys that an
            existing collection has already.
        timings: Seconds by phase.
        error: The typed error behind `error_message`.
    """

    _derived: ClassVar[tuple[str, ...]] = ("execution_time_seconds",)
    _shown: ClassVar[tuple[str, ...]] = (
        "success",
        "backup_id",
        "source_collection_name",
        "target_collection_name",
        "rows_restored",
        "failed_partitions",
        "verification_passed",
        "error_message",
        "warnings",
        "plan",
    )

    backup_id: str
    source_collection_name: str | None = None
    target_collection_name: str | None = None
    target_database: str | None = None
    rows_restored: int = 0
    partitions_restored: list[str] = Field(default_factory=list)
    failed_partitions: list[str] = Field(default_factory=list)
    execution_time_ms: float = 0.0
    verification_passed: bool | None = None
    verification_details: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    dry_run: bool = False
    plan: dict[str, Any] | None = None
    timings: dict[str, float] = Field(default_factory=dict)

    @property
    def execution_time_seconds(self) -> float:
        """`execution_time_ms` in seconds."""
        return self.execution_time_ms / 1000


class CopyResult(Result):
    """What a copy into another repository brought over.

    Attributes:
        backup_id: The backup's id, the same in both repositories.
        backup_name: Its name for people, the same too.
        collection_name: Its collection.
        storage_path: Where the copy is.
        already_there: Whether the whole backup was there before.
        files: Files of the backup.
        files_copied: Those that this call brought over; the others had been by an earlier one.
        bytes_copied: Their size in bytes.
        server_side: Whether the object store copied them itself.
        verification: What was found when the copy was checked where it now is; `None` where that was not asked for.
    """

    _shown: ClassVar[tuple[str, ...]] = (
        "backup_id",
        "collection_name",
        "storage_path",
        "already_there",
        "files",
        "files_copied",
        "bytes_copied",
    )

    backup_id: str
    backup_name: str
    collection_name: str
    storage_path: str
    already_there: bool = False
    files: int = 0
    files_copied: int = 0
    bytes_copied: int = 0
    server_side: bool = False
    verification: VerificationResult | None = None


class Check(Result):
    """One thing that `BackupManager.check` looked at.

    Attributes:
        name: `server`, `repository`, `milvus_storage` or `milvus_management`.
        success: Whether it is as it has to be; `None` where that could not be told.
        message: What was found; where something is wrong, what, and the way out.
    """

    _shown: ClassVar[tuple[str, ...]] = ("name", "success", "message")

    name: str
    success: bool | None
    message: str


class CheckResult(Result):
    """What `BackupManager.check` found.

    Attributes:
        success: Whether nothing is wrong.
        checks: What was looked at, one by one.
    """

    _shown: ClassVar[tuple[str, ...]] = ("success", "checks")

    success: bool
    checks: list[Check]


class ExportResult(Result):
    """A file with a backup's rows.

    Attributes:
        backup_id: The backup.
        path: The file.
        row_count: Its rows.
        size_bytes: Its length.
        execution_time_ms: Milliseconds it took.
    """

    _shown: ClassVar[tuple[str, ...]] = ("backup_id", "path", "row_count", "size_bytes", "execution_time_ms")

    backup_id: str
    path: str
    row_count: int
    size_bytes: int
    execution_time_ms: float = 0.0
