"""What backups there are: one as its manifest describes it, one whose manifest is damaged, and a list of both.

Users find these in `results`.
"""

# Without `from __future__ import annotations`: names in texts would be looked up in `results`, which has few of them.

import datetime
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo

from ._model import BYTES_PER_MB, Result, UtcDatetime
from .display import html_grid, human_value
from .enums import BackupOwner, BackupState, BackupStorageType, BackupType, ChecksumAlgorithm
from .errors import BackupCorruptedError

_TIME: TypeAdapter[datetime.datetime] = TypeAdapter(UtcDatetime)


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


def last_verification(backup: BackupMetadata, verification_type: str) -> datetime.datetime | None:
    """When a verification of a type last ended; `None` where there was none, or what is noted is no time."""
    try:
        return _TIME.validate_python(backup.verifications.get(verification_type, {}).get("verified_at"))
    except ValidationError:
        return None


def found_damaged(backup: BackupMetadata) -> str | None:
    """Which verification found damage last, and when, for people; `None` where none has.

    The core forgets damage that a later verification, at least as thorough, did not find.
    """
    failed = [name for name, last in backup.verifications.items() if last.get("success") is False]
    if not failed:
        return None
    when, name = max((human_value(last_verification(backup, name)), name) for name in failed)
    return f"{name} at {when}"


def verified_or_damaged(backup: BackupMetadata) -> str:
    """Whether it is verified, for people: `yes`, `no`, or `damaged`."""
    return "damaged" if found_damaged(backup) else human_value(backup.is_verified)


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
                verified_or_damaged(backup),
            )
            for backup in self
        ]
        table = html_grid(f"{len(self)} backups", header, rows)
        if not self.damaged:
            return table
        lost = [(each.backup_id, each.collection_name, each.storage_path, each.reason) for each in self.damaged]
        return table + html_grid(f"{len(lost)} damaged", ("backup id", "collection", "stored at", "reason"), lost)
