"""What a call is told: `BackupParams`, `RestoreParams`, `VerificationParams`.

A field that is left unset takes the value of the manager's `BackupRecoveryConfig` where that has one.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from ._model import Level, Model, Percent, PositiveCount, PositiveRate
from ._moments import hybrid_timestamp
from .enums import (
    AutoIdPolicy,
    BackupStorageType,
    BackupType,
    ConflictPolicy,
    LinkPolicy,
    RestoreProof,
    RestoreVia,
    VerificationType,
)
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

Name = Annotated[str, StringConstraints(min_length=1)]


class BackupParams(Model):
    """How one backup is made.

    Attributes:
        backup_type: `FULL_COLLECTION`, or `PARTITION` with `partition_names`.
        partition_names: The partitions of a `PARTITION` backup.
        compression_enabled: Whether data files are compressed, with zstd. Unset: the config's.
        compression_level: 1 (fast) to 9 (small). Unset: the config's.
        chunk_size_mb: About how many MiB of rows, in memory, one data file holds. Unset: the config's default.
        include_indexes: Whether index definitions are kept, so that a restore can build them again.
        backup_name: A name for people, unique within the collection. Unset: made from collection and UTC time.
        tags: Words to find the backup by.
        storage_type: How it is stored. Unset: the config's default.
        base: The backup that an incremental one builds on.
        resume: Whether to go on with what an unfinished backup of the same collection with the same parameters has
            read. Otherwise that is cleared away.
        duplicates: What to do where several rows have one primary key: `fail`, naming them, or `collapse` them, with a
            warning, to the newest, or, with rows from the server's answers, to the one that it shows. Native backups
            hold them all, and the newest is read of each.
        source: Where the rows of a Parquet backup come from: `query`, the server's answers; `binlogs`, the files that
            Milvus keeps, which `milvus_storage` names: a true snapshot, with nothing loaded; `auto`, the files where
            `milvus_storage` is set and they can be read, else the answers. Native backups are the files in any case.
        link: Whether a native backup may share files with Milvus's storage on the same disk. Unset: the config's.
        prove_stable: Whether to read everything twice and compare, to prove that nobody wrote meanwhile.
        bandwidth_limit_mib: MiB per second that it may move to and from the repository. Unset: the config's.
    """

    backup_type: BackupType = BackupType.FULL_COLLECTION
    partition_names: list[Name] = Field(default_factory=list)
    compression_enabled: bool = True
    compression_level: Level = 6
    chunk_size_mb: PositiveCount = 256
    include_indexes: bool = True
    backup_name: Name | None = None
    tags: list[str] = Field(default_factory=list)
    storage_type: BackupStorageType | None = None
    base: str | None = None
    resume: bool = True
    duplicates: Literal["fail", "collapse"] = "fail"
    source: Literal["auto", "query", "binlogs"] = "auto"
    link: LinkPolicy = LinkPolicy.NEVER
    prove_stable: bool = False
    bandwidth_limit_mib: PositiveRate | None = None

    @model_validator(mode="after")
    def _partitions_fit_the_type(self) -> Self:
        if self.backup_type is BackupType.PARTITION and not self.partition_names:
            raise ValueError("partition_names: a PARTITION backup needs at least one partition's name")
        if self.backup_type is BackupType.FULL_COLLECTION and self.partition_names:
            raise ValueError(
                "partition_names: a FULL_COLLECTION backup holds every partition; "
                "use backup_type=BackupType.PARTITION to back up only these"
            )
        return self


class RestoreParams(Model):
    """How one restore is carried out.

    Attributes:
        target_collection_name: The collection to make. Unset: the backup's own.
        target_database: The database to make it in, which must exist. Unset: the connection's.
        partition_names: Only these partitions; all when empty.
        where: Only rows that match this expression on scalar and JSON fields, in Milvus's style.
        as_of: The moment to restore of a native backup, up to its own: a time with its zone, milliseconds since 1970
            or a timestamp of Milvus. Where compaction may have taken rows of it away, a warning says so.
        verify_before_restore: Whether every file's checksum is checked first. Unset: the config's.
        drop_existing: Whether a collection of the target's name may be replaced. It stays until the new one is proven.
        into_existing: Whether the rows go into the collection that stands at the target, by their primary keys. There
            is no staging then: what was put in before a failure stays.
        on_conflict: What is done about rows whose keys are there already, with `into_existing`.
        load_after_restore: Whether the collection is loaded, ready for search, at the end.
        restore_indexes: Whether indexes are built again.
        skip_failed_partitions: Whether a partition that cannot be read, inserted or proven is left out, and named in
            `failed_partitions`; otherwise it fails the restore. A collection is never replaced by less than the whole.
        via: By what way rows come into the collection.
        verify_after: How restored rows are proven before they take the collection's place.
        auto_id: What becomes of primary keys that the server had made.
        dry_run: Whether only to check, and to tell in the result's `plan` what would be done.
        batch_rows: Rows in one insert request. Unset: chosen by the rows' size.
        max_requests_in_flight: Insert requests on the way at the same time.
        bandwidth_limit_mib: MiB per second that it may read from the repository. Unset: the config's.
    """

    target_collection_name: Name | None = None
    target_database: Name | None = None
    partition_names: list[Name] = Field(default_factory=list)
    where: Name | None = None
    as_of: datetime.datetime | int | None = None
    verify_before_restore: bool = True
    drop_existing: bool = False
    into_existing: bool = False
    on_conflict: ConflictPolicy = ConflictPolicy.FAIL
    load_after_restore: bool = False
    restore_indexes: bool = True
    skip_failed_partitions: bool = False
    via: RestoreVia = RestoreVia.AUTO
    verify_after: RestoreProof = RestoreProof.DIGEST
    auto_id: AutoIdPolicy = AutoIdPolicy.PRESERVE
    dry_run: bool = False
    batch_rows: PositiveCount | None = None
    max_requests_in_flight: PositiveCount = 2
    bandwidth_limit_mib: PositiveRate | None = None

    @field_validator("as_of")
    @classmethod
    def _is_a_moment(cls, moment: datetime.datetime | int | None) -> datetime.datetime | int | None:
        if moment is not None:
            try:
                hybrid_timestamp(moment)
            except InvalidArgumentError as error:
                raise ValueError(str(error)) from None
        return moment

    @model_validator(mode="after")
    def _into_existing_fits_the_rest(self) -> Self:
        if not self.into_existing:
            if self.on_conflict is not ConflictPolicy.FAIL:
                raise ValueError("on_conflict: it concerns rows that go into a collection, with into_existing=True")
            return self
        if self.drop_existing:
            raise ValueError("into_existing: either it or drop_existing; rows cannot go into what is replaced")
        if self.auto_id is AutoIdPolicy.REGENERATE:
            raise ValueError("into_existing: rows go in by their primary keys, which auto_id=REGENERATE does not keep")
        if self.skip_failed_partitions:
            raise ValueError("into_existing: it has no staging to begin anew, which skip_failed_partitions needs")
        return self


class VerificationParams(Model):
    """How one backup is verified.

    Attributes:
        verification_type: `CHECKSUM` reads every file. `QUICK` looks at every file's length and footer, and decodes a
            sample of the rows. `DEEP` does what `CHECKSUM` does, and then a trial restore.
        sample_size: Percent of the row groups that `QUICK` decodes, above 0, at most 100; at least one.
        seed: Chooses which ones: the same seed, the same row groups. Unset: another sample each time, its seed in
            `details`.
        fail_fast: Whether to stop at the first damage; otherwise all of it is found.
        verify_checksums: Whether files' checksums are compared: all of them (`CHECKSUM`, `DEEP`), or those of all files
            but the data (`QUICK`). Unset: the config's `enable_checksum_verification`.
        verify_schema: Whether the schema has to be the manifest's, and index definitions have to be readable; for
            `DEEP` also, whether the restored schema has to be the backup's.
        verify_data_integrity: Whether digests of rows are compared: the chunk table's with the manifest's, for
            `QUICK` the files' footers with the chunk table and the sampled rows with their footers, for `DEEP` those of
            every row read back (otherwise rows are counted).
        deep_verify_row_count: Whether numbers of rows are compared in the same places, and for `DEEP` with what the
            server counts.
    """

    verification_type: VerificationType = VerificationType.CHECKSUM
    sample_size: Percent = 10.0
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    fail_fast: bool = True
    verify_checksums: bool = True
    verify_schema: bool = True
    verify_data_integrity: bool = True
    deep_verify_row_count: bool = True
