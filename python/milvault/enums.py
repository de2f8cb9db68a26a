"""Words with a fixed set of values. Each is a `str` whose value equals its name: JSON and people read the same."""

from __future__ import annotations

from enum import Enum


class _Word(str, Enum):
    """A `str` enum that prints as its value on every Python version."""

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(str(self.value), spec)


class BackupState(_Word):
    """Where a backup stands. `COMPLETED` says it is whole, `VERIFIED` that its files have been checked since."""

    NONE = "NONE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    VERIFYING = "VERIFYING"
    VERIFIED = "VERIFIED"


class BackupType(_Word):
    """What a backup holds: the whole collection, some partitions, or what changed since another backup."""

    FULL_COLLECTION = "FULL_COLLECTION"
    PARTITION = "PARTITION"
    INCREMENTAL = "INCREMENTAL"


class BackupStorageType(_Word):
    """How a backup is stored: Parquet files in a folder or object store, or Milvus's own binlogs."""

    LOCAL_FILE = "LOCAL_FILE"
    MILVUS_NATIVE = "MILVUS_NATIVE"


class BackupOwner(_Word):
    """Whose a backup's folder is.

    `MILVAULT`: made and kept by Milvault. `MILVUS_BACKUP`: milvus-backup made it, and it is read where it lies: it has
    no checksums, and is never changed, deleted, or counted by retention.
    """

    MILVAULT = "MILVAULT"
    MILVUS_BACKUP = "MILVUS_BACKUP"


class LinkPolicy(_Word):
    """Whether a native backup may share files with Milvus's storage, where both are on one local file system.

    `NEVER` copies them. `REFLINK` shares their blocks until one of the two is written, on file systems that can (XFS,
    btrfs). `HARDLINK` gives the same file a second name. What cannot be linked is copied. Linked files take no space
    and no time to be written, and one bad sector, or one disk, loses both.
    """

    NEVER = "NEVER"
    REFLINK = "REFLINK"
    HARDLINK = "HARDLINK"


class VerificationType(_Word):
    """How a backup is proven: every file's checksum, a trial restore, or a sample of the rows."""

    CHECKSUM = "CHECKSUM"
    DEEP = "DEEP"
    QUICK = "QUICK"


class ChecksumAlgorithm(_Word):
    """The algorithm of a backup's file checksums. MD5 finds accidents, not attackers."""

    SHA256 = "SHA256"
    MD5 = "MD5"
    BLAKE2B = "BLAKE2B"


class RestoreProof(_Word):
    """How restored rows are proven before they take the collection's place.

    `DIGEST` reads them back and compares the digest of every row, `COUNT` compares how many there are, `NONE` trusts.
    """

    DIGEST = "DIGEST"
    COUNT = "COUNT"
    NONE = "NONE"


class RestoreVia(_Word):
    """By what way rows come into the new collection.

    `INSERT` decodes them here and inserts them, which works for every backup and every server. `IMPORT` has the server
    read a native backup's own files, where it can see them, and keeps keys that a server had made. `AUTO` imports
    where that can be done and comes to the same, and inserts otherwise, also where an import fails.
    """

    AUTO = "AUTO"
    INSERT = "INSERT"
    IMPORT = "IMPORT"


class ConflictPolicy(_Word):
    """What a restore into an existing collection does about rows whose primary keys are there already.

    `FAIL` writes nothing at all, `SKIP` keeps the rows that are there, `OVERWRITE` puts the backup's in their place.
    """

    FAIL = "FAIL"
    SKIP = "SKIP"
    OVERWRITE = "OVERWRITE"


class AutoIdPolicy(_Word):
    """What becomes of keys that the server had made: kept (`PRESERVE`), or made anew (`REGENERATE`)."""

    PRESERVE = "PRESERVE"
    REGENERATE = "REGENERATE"
