"""What the command line says instead of what Python calls a thing: messages name options, as people type them."""

from __future__ import annotations

import functools
import re

_OPTIONS = {
    'duplicates="collapse"': "--collapse-duplicates",
    "drop_existing=True": "--drop-existing",
    "into_existing=True": "--into-existing",
    "skip_failed_partitions=True": "--skip-failed-partitions",
    "prove_stable=True": "--prove-stable",
    "overwrite=True": "--overwrite",
    "dry_run=True": "--dry-run",
    "resume=False": "--no-resume",
    "verify_before_restore=False": "--no-verify",
    "storage_type=MILVUS_NATIVE": "--native",
    "BackupStorageType.LOCAL_FILE": "a backup without --native",
    "adopt_backup": "milvault adopt",
    "timeout=": "--timeout",
    "via=": "--via ",
    "auto_id=": "--auto-id ",
    "on_conflict=": "--on-conflict ",
    "source=": "--source ",
    "link=": "--link ",
    "as_of": "--as-of",
    "auto_id": "--auto-id",
    "backup_name": "--name",
    "ca_file": "--ca-file",
    "cert_file": "--cert-file",
    "chunk_size_mb": "--chunk-size-mb",
    "compression_level": "--level",
    "created_after": "--since",
    "db_name": "--db-name",
    "drop_existing": "--drop-existing",
    "into_existing": "--into-existing",
    "journal_root": "--journal-root",
    "key_file": "--key-file",
    "local_backup_root_path": "--root",
    "milvus_management": "--milvus-management",
    "milvus_storage": "--milvus-storage",
    "on_conflict": "--on-conflict",
    "partition_names": "--partition",
    "read_only": "--read-only",
    "sample_size": "--sample",
    "server_name": "--server-name",
    "skip_failed_partitions": "--skip-failed-partitions",
    "storage_options": "--storage-option",
    "target_collection_name": "--target",
    "target_database": "--target-database",
    "verify_before_restore": "--no-verify",
}
"""In this order: what has a value stands before the bare name."""


@functools.cache
def _words() -> re.Pattern[str]:
    # Whole words that are nobody's name or path: not within quotes, nor beside a slash, a dot or a hyphen.
    return re.compile(rf"""(?<![\w'"/.-])(?:{"|".join(map(re.escape, _OPTIONS))})(?:(?<==)|(?![\w'"/-]|\.\w))""")


def in_options(message: str) -> str:
    """A message with options in the place of parameters' names.

    Example:
        >>> in_options("replace it with drop_existing=True, or choose target_collection_name")
        'replace it with --drop-existing, or choose --target'
    """
    return _words().sub(lambda found: _OPTIONS[found[0]], message)
