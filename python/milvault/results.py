"""What calls return. All frozen, with `to_dict()`, a short `repr`, and a table in notebooks.

Sizes ending in `_mb` are in units of 1024² bytes; times are in UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo

from ._model import BYTES_PER_MB, Result, UtcDatetime
from .display import html_grid
from .enums import BackupOwner, BackupState, BackupStorageType, BackupType, ChecksumAlgorithm, VerificationType
from .errors import BackupCorruptedError, BackupError, BackupRecoveryError

if TYPE_CHECKING:
    from collections.abc import Iterable


def _known_state(value: Any, info: ValidationInfo) -> Any:
    """What a manifest's state is to a person.

    A completed backup that is verified is `VERIFIED`. A state that only the manifest knows, such as that of a backup
    half deleted: not whole, so `FAILED`.
    """
    if value == "COMPLETED":
        return BackupState.VERIFIED if info.data.get("is_verified") else BackupState.COMPLETED
    return value if not isinstance(value, str) or value in BackupState.__members__ else BackupState.FAILED


class BackupMetadata(Result):
    """A backup, as its manifest describes it. Keys that this version does not know are kept and can be read by name.

    Attributes:
        backup_id: Names the backup; ids sort by time.
        backup_name: The name for people, unique within the collection.
        collection_name: The collection it was made of.
        partition_names: The partitions it holds.
        created_at: When it was made, UTC.
        storage_type: How it is stored.
        storage_path: Where it is: a folder or a URL.
        owner: Whose its folder is: `MILVAULT`, or `MILVUS_BACKUP` for one that milvus-backup made and keeps. Of such a
            one `row_count` is what its metadata tells, deleted rows among them, and `checksum` is empty.
        size_bytes: Bytes of its rows in memory (Arrow).
        compressed_size_bytes: Bytes of its files.
        checksum: One checksum that stands for the whole backup.
        checksum_algorithm: The algorithm of that one and of the files'.
        is_verified: Whether its last verification found it whole, and no more thorough one found damage.
        last_verified_at: When that was, UTC; `None` where it is not verified.
        state: `COMPLETED`, unless something is wrong with it.
        backup_type: What it holds.
        error_message: Why it failed, where it did.
        milvus_version: The server's version.
        schema_snapshot: The collection's schema, as the backup keeps it.
        row_count: Rows.
        segment_count: Data files.
        compression_enabled: Whether its files are compressed.
        compression_level: How hard, 1 to 9.
        include_indexes: Whether it holds index definitions.
        metadata_version: The version of the manifest's format.
        tags: Words to find it by.
        resumed: What was read by an earlier run that ended before it was done: `backup_id`, `started_at`, `chunks`,
            `rows`; `None` where one run read it all.
        verifications: When each type of verification last ended (`verified_at`, ISO 8601), and whether with `success`.
    """

    model_config = ConfigDict(extra="allow")
    _derived: ClassVar[tuple[str, ...]] = ("size_mb", "compressed_size_mb", "compression_ratio")
    _shown: ClassVar[tuple[str, ...]] = (
        "backup_id",
        "backup_name",
        "collection_name",
        "backup_type",
        "state",
        "row_count",
        "created_at",
        "is_verified",
        "storage_path",
        "tags",
    )

    backup_id: str
    backup_name: str
    collection_name: str
    partition_names: list[str] = Field(default_factory=list)
    created_at: UtcDatetime
    storage_type: BackupStorageType = BackupStorageType.LOCAL_FILE
    storage_path: str = ""
    owner: BackupOwner = BackupOwner.MILVAULT
    size_bytes: int = 0
    compressed_size_bytes: int | None = None
    checksum: str | None = None
    checksum_algorithm: ChecksumAlgorithm = ChecksumAlgorithm.SHA256
    is_verified: bool = False
    last_verified_at: UtcDatetime | None = None
    state: Annotated[BackupState, BeforeValidator(_known_state)] = BackupState.COMPLETED
    backup_type: BackupType = BackupType.FULL_COLLECTION
    error_message: str | None = None
    milvus_version: str | None = None
    schema_snapshot: dict[str, Any] | None = None
    row_count: int = 0
    segment_count: int = 0
    compression_enabled: bool = True
    compression_level: int | None = None
    include_indexes: bool = True
    metadata_version: int | str = 1
    tags: list[str] = Field(default_factory=list)
    resumed: dict[str, Any] | None = None
    verifications: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def is_full_backup(self) -> bool:
        """Whether it holds the whole collection."""
        return self.backup_type is BackupType.FULL_COLLECTION

    @property
    def is_partition_backup(self) -> bool:
        """Whether it holds some partitions only."""
        return self.backup_type is BackupType.PARTITION

    @property
    def is_completed(self) -> bool:
        """Whether it is whole, so that it can be restored."""
        return self.state in (BackupState.COMPLETED, BackupState.VERIFYING, BackupState.VERIFIED)

    @property
    def size_mb(self) -> float:
        """`size_bytes` in units of 1024² bytes."""
        return self.size_bytes / BYTES_PER_MB

    @property
    def compressed_size_mb(self) -> float | None:
        """`compressed_size_bytes` in units of 1024² bytes."""
        return None if self.compressed_size_bytes is None else self.compressed_size_bytes / BYTES_PER_MB

    @property
    def compression_ratio(self) -> float | None:
        """How many bytes of rows one byte on disk stands for; `None` where that is unknown."""
        return self.size_bytes / self.compressed_size_bytes if self.compressed_size_bytes else None


def read_metadata(value: dict[str, Any]) -> BackupMetadata:
    """A manifest as the core hands it on.

    Raises:
        BackupCorruptedError: A value in it is none that a manifest may have.
    """
    try:
        return BackupMetadata.model_validate(value)
    except ValidationError as error:
        fields = sorted({str(one["loc"][0]) for one in error.errors() if one["loc"]})
        backup_id = str(value.get("backup_id"))
        raise BackupCorruptedError(
            f"the manifest of backup {backup_id} holds what no manifest may hold, in {', '.join(fields)}; "
            "copy its metadata.json back from where it is whole, or delete the backup",
            collection_name=str(value.get("collection_name")),
            backup_id=backup_id,
            failed_files=["metadata.json"],
        ) from None


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


class DamagedBackup(Result):
    """A backup whose manifest cannot be read.

    Attributes:
        backup_id: Its id, by its folder's name; of one that milvus-backup made, that name.
        collection_name: Its collection, by its folder's name; empty where nothing tells it.
        database: The collection's database, likewise.
        storage_path: Where it is: a folder or a URL.
        reason: What is wrong with the manifest.
    """

    _shown: ClassVar[tuple[str, ...]] = ("backup_id", "collection_name", "storage_path", "reason")

    backup_id: str
    collection_name: str
    database: str = "default"
    storage_path: str
    reason: str


class BackupList(list[BackupMetadata]):
    """A plain list of backups, newest first, that shows as a table in notebooks.

    Attributes:
        damaged: Backups whose manifest cannot be read, which are in no list.
    """

    def __init__(self, backups: Iterable[BackupMetadata] = (), damaged: Iterable[DamagedBackup] = ()) -> None:
        super().__init__(backups)
        self.damaged = list(damaged)

    def _repr_html_(self) -> str:
        header = ("backup id", "name", "collection", "created", "type", "state", "rows", "MiB", "verified")
        rows = [
            (
                backup.backup_id,
                backup.backup_name,
                backup.collection_name,
                backup.created_at,
                backup.backup_type,
                backup.state,
                backup.row_count,
                backup.size_mb,
                backup.is_verified,
            )
            for backup in self
        ]
        table = html_grid(f"{len(self)} backups", header, rows)
        if not self.damaged:
            return table
        lost = [(each.backup_id, each.collection_name, each.storage_path, each.reason) for each in self.damaged]
        return table + html_grid(f"{len(lost)} damaged", ("backup id", "collection", "stored at", "reason"), lost)


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
