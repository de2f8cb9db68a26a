"""From params and config to what the core is asked: pure functions. What this version cannot serve is refused here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ._arguments import (
    checked_count,
    checked_flag,
    checked_name,
    checked_options,
    checked_path,
    checked_texts,
    checked_timeout,
    checked_word,
)
from ._moments import Moment, hybrid_timestamp
from ._urls import fault_of
from .enums import BackupStorageType, BackupType, LinkPolicy
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .config import BackupRecoveryConfig
    from .params import BackupParams, RestoreParams, VerificationParams


def repository_settings(config: BackupRecoveryConfig) -> dict[str, Any]:
    """Where the repository is and how to get in, secrets included."""
    settings: dict[str, Any] = {
        "root": config.local_backup_root_path,
        "options": {name: value.get_secret_value() for name, value in config.storage_options.items()},
    }
    if config.read_only:
        settings["read_only"] = True
    if config.journal_root is not None:
        settings["journal_root"] = config.journal_root
    return settings


def milvus_storage_settings(config: BackupRecoveryConfig) -> dict[str, Any] | None:
    """Where Milvus itself keeps its files and how to get in, secrets included; a `milvus.yaml` is read for it.

    Raises:
        InvalidArgumentError: The `milvus.yaml` cannot be read, or describes no storage.
    """
    if config.milvus_storage is None:
        return None
    root: str = config.milvus_storage.url
    options: dict[str, str] = {}
    if root.lower().endswith((".yaml", ".yml")) and "://" not in root:
        from ._milvus_yaml import storage_of

        root, options = storage_of(root)
    options.update({name: value.get_secret_value() for name, value in config.milvus_storage.options.items()})
    return {"root": root, "options": options}


def retry_settings(config: BackupRecoveryConfig) -> dict[str, Any]:
    """How failures that may pass are repeated."""
    return {
        "max_retries": config.max_retries if config.retry_transient_errors else 0,
        "retry_delay_seconds": config.retry_delay_seconds,
    }


def backup_request(
    collection_name: str,
    params: BackupParams,
    config: BackupRecoveryConfig,
    timeout: float | None,
    database: str | None = None,
    moment: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The core's `backup` request; without a `database`, in the connection's. `moment` is a set's common one.

    Raises:
        InvalidArgumentError: An argument cannot be right, or names what this version does not do.
    """
    storage_type = params.storage_type or config.default_storage_type
    if storage_type is BackupStorageType.MILVUS_NATIVE:
        _check_native(collection_name, config)
    if params.backup_type is BackupType.INCREMENTAL or params.base is not None:
        raise InvalidArgumentError(
            "backup_type=INCREMENTAL (and base) is not in this version; use BackupType.FULL_COLLECTION or PARTITION",
            collection_name=collection_name,
        )
    unset = _unset(params, compression_enabled=config.compression_enabled, compression_level=config.compression_level,
                   chunk_size_mb=config.default_chunk_size_mb,
                   link=config.link, bandwidth_limit_mib=config.bandwidth_limit_mib)  # fmt: skip
    return {
        "collection_name": checked_name("collection_name", collection_name),
        "database": database,
        "backup_name": params.backup_name,
        "backup_type": params.backup_type.value,
        "storage_type": storage_type.value,
        **({} if moment is None else {"moment": moment}),
        "partition_names": params.partition_names,
        **unset,
        "include_indexes": params.include_indexes,
        "tags": params.tags,
        "duplicates": params.duplicates,
        "source": params.source,
        "prove_stable": params.prove_stable,
        "resume": params.resume,
        "checksum_algorithm": config.checksum_algorithm.value,
        "max_concurrent_chunks": config.max_concurrent_chunks,
        "verify_after": config.auto_verify_after_backup and config.enable_checksum_verification,
        "timeout_seconds": checked_timeout(timeout, config.default_backup_timeout),
    }


def _check_native(collection_name: str, config: BackupRecoveryConfig) -> None:
    if config.milvus_storage is None:
        raise InvalidArgumentError(
            "storage_type=MILVUS_NATIVE copies the files that Milvus keeps, and nothing says where those are: set "
            "milvus_storage to the folder, or to the bucket and root path (s3://bucket/files), that the server writes "
            "to, or to its milvus.yaml; BackupStorageType.LOCAL_FILE needs none of them",
            collection_name=collection_name,
        )
    if config.milvus_backup_bucket is not None:
        raise InvalidArgumentError(
            "native backups go where all others go: leave milvus_backup_bucket out, and set local_backup_root_path, "
            f"which may be an object store's URL such as s3://{config.milvus_backup_bucket}/backups",
            collection_name=collection_name,
        )


def restore_request(
    backup: str | os.PathLike[str],
    collection_name: str | None,
    params: RestoreParams,
    config: BackupRecoveryConfig,
    timeout: float | None,
) -> dict[str, Any]:
    """The core's `restore` request.

    Raises:
        InvalidArgumentError: An argument cannot be right.
    """
    unset = _unset(
        params,
        verify_before_restore=config.auto_verify_before_restore and config.enable_checksum_verification,
        bandwidth_limit_mib=config.bandwidth_limit_mib,
    )
    return {
        **_named(backup, collection_name),
        "target_collection_name": params.target_collection_name,
        "target_database": params.target_database,
        "partition_names": params.partition_names,
        "where": params.where,
        "at": None if params.as_of is None else hybrid_timestamp(params.as_of),
        **unset,
        "drop_existing": params.drop_existing,
        "into_existing": params.into_existing,
        "on_conflict": params.on_conflict.value,
        "load_after_restore": params.load_after_restore,
        "restore_indexes": params.restore_indexes,
        "skip_failed_partitions": params.skip_failed_partitions,
        "via": params.via.value,
        "verify_after": params.verify_after.value,
        "auto_id": params.auto_id.value,
        "dry_run": params.dry_run,
        "batch_rows": params.batch_rows,
        "max_requests_in_flight": params.max_requests_in_flight,
        "timeout_seconds": checked_timeout(timeout, config.default_restore_timeout),
    }


def verify_request(
    backup: str | os.PathLike[str],
    collection_name: str | None,
    params: VerificationParams,
    config: BackupRecoveryConfig,
    timeout: float | None,
) -> dict[str, Any]:
    """The core's `verify` request.

    Raises:
        InvalidArgumentError: An argument cannot be right, or names what this version does not do.
    """
    return {
        **_named(backup, collection_name),
        "verification_type": params.verification_type.value,
        "sample_size": params.sample_size,
        "seed": params.seed,
        "fail_fast": params.fail_fast,
        **_unset(params, verify_checksums=config.enable_checksum_verification),
        "verify_schema": params.verify_schema,
        "verify_data_integrity": params.verify_data_integrity,
        "deep_verify_row_count": params.deep_verify_row_count,
        "bandwidth_limit_mib": config.bandwidth_limit_mib,
        "timeout_seconds": checked_timeout(timeout, config.verification_timeout),
    }


def prune_request(
    collection_name: str | None,
    database: str | None,
    config: BackupRecoveryConfig,
    *,
    dry_run: bool,
    given: Mapping[str, int | Iterable[str] | None],
) -> dict[str, Any]:
    """The core's `prune` request: what is given wins over the config's values.

    Raises:
        InvalidArgumentError: An argument cannot be right.
    """
    policy: dict[str, Any] = {}
    for setting, name in _RULES.items():
        value = given.get(setting)
        if value is None:
            value = getattr(config, setting)
        policy[name] = checked_count(setting, value)
    tags = given.get("retention_tags")
    policy["tags"] = checked_texts("retention_tags", config.retention_tags if tags is None else tags, "tags")
    return {
        "collection_name": None if collection_name is None else checked_name("collection_name", collection_name),
        "database": None if database is None else checked_name("database", database),
        "dry_run": checked_flag("dry_run", dry_run),
        "policy": policy,
    }


_RULES = {
    "retention_count": "count",
    "retention_days": "days",
    "min_backups_to_keep": "minimum",
    "retention_daily": "daily",
    "retention_weekly": "weekly",
    "retention_monthly": "monthly",
}


def open_request(
    backup: str | os.PathLike[str],
    collection_name: str | None,
    *,
    columns: Sequence[str] | None,
    where: str | None,
    partition_names: Sequence[str] | None,
    as_of: Moment | None = None,
) -> dict[str, Any]:
    """The core's request to open a backup.

    Raises:
        InvalidArgumentError: An argument cannot be right.
    """
    if where is not None and not isinstance(where, str):
        raise InvalidArgumentError("where has to be a filter's text, such as 'price < 10'")
    return {
        **_named(backup, collection_name),
        "columns": None if columns is None else checked_texts("columns", columns, "names"),
        "where": where,
        "partition_names": checked_texts("partition_names", partition_names or (), "names"),
        "at": None if as_of is None else hybrid_timestamp(as_of),
    }


EXPORT_FORMATS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".ipc": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""The format of an exported file by its suffix."""


def export_request(
    rows: dict[str, Any],
    path: str | os.PathLike[str],
    file_format: str | None,
    *,
    overwrite: bool,
    timeout: float | None,
) -> dict[str, Any]:
    """The core's `export` request, for the rows of an `open_request`.

    Raises:
        InvalidArgumentError: An argument cannot be right.
    """
    text = checked_path("path", path)
    if not text or "\0" in text:
        raise InvalidArgumentError(f"path has to be a file's path, not {text!r}")
    chosen = file_format or EXPORT_FORMATS.get(os.path.splitext(text)[1].lower())  # noqa: PTH122
    if chosen not in EXPORT_FORMATS.values():
        known = ", ".join(sorted(set(EXPORT_FORMATS.values())))
        raise InvalidArgumentError(f"the format of {text!r} is not known: give format as one of {known}")
    limit = None if timeout is None else checked_timeout(timeout, timeout)
    return {
        **rows,
        "path": text,
        "format": chosen,
        "overwrite": checked_flag("overwrite", overwrite),
        "export_timeout_seconds": limit,
    }


def backup_named(backup: str | os.PathLike[str], collection_name: str | None) -> dict[str, Any]:
    """A request that names one backup, by id, name or path, and maybe its collection.

    Raises:
        InvalidArgumentError: One of them is not a name.
    """
    return _named(backup, collection_name)


def copy_request(
    backup: str,
    collection_name: str | None,
    config: BackupRecoveryConfig,
    to: str | os.PathLike[str],
    storage_options: dict[str, str] | None,
    verify_after: bool,
    timeout: float | None,
) -> dict[str, Any]:
    """The core's `copy` request.

    Raises:
        InvalidArgumentError: An argument cannot be right.
    """
    return {
        **_named(backup, collection_name),
        "to": {
            "root": _checked_place("to", checked_path("to", to)),
            "options": _options_of_another(storage_options, config),
        },
        "verify_after": checked_flag("verify_after", verify_after),
        "bandwidth_limit_mib": config.bandwidth_limit_mib,
        "timeout_seconds": checked_timeout(timeout, config.default_backup_timeout),
    }


def adopt_request(
    source: str | os.PathLike[str],
    collection_name: str | None,
    config: BackupRecoveryConfig,
    storage_options: dict[str, str] | None,
    tags: Iterable[str],
    link: LinkPolicy | None,
    timeout: float | None,
) -> dict[str, Any]:
    """The core's `adopt` request.

    Raises:
        InvalidArgumentError: An argument cannot be right.
    """
    return {
        "source": _checked_place("source", checked_path("source", source)),
        "options": _options_of_another(storage_options, config),
        "collection_name": None if collection_name is None else checked_name("collection_name", collection_name),
        "checksum_algorithm": config.checksum_algorithm.value,
        "tags": checked_texts("tags", tags, "tags"),
        "link": checked_word("link", config.link if link is None else link, LinkPolicy).value,
        "bandwidth_limit_mib": config.bandwidth_limit_mib,
        "timeout_seconds": checked_timeout(timeout, config.default_backup_timeout),
    }


def _named(backup: str | os.PathLike[str], collection_name: str | None) -> dict[str, Any]:
    name = None if collection_name is None else checked_name("collection_name", collection_name)
    if isinstance(backup, os.PathLike):  # a path, also where it has no slash, which is what tells one from a name
        text = os.fspath(backup)
        backup = text if "/" in text or not text else f"./{text}"
    return {"backup": _checked_place("backup_id", backup), "collection_name": name}


def _options_of_another(options: dict[str, str] | None, config: BackupRecoveryConfig) -> dict[str, str]:
    """Options of another store than the repository's; the repository's own where none are given."""
    return repository_settings(config)["options"] if options is None else checked_options("storage_options", options)


def _checked_place(argument: str, place: object) -> str:
    text = checked_name(argument, place)
    if fault := fault_of(text):
        raise InvalidArgumentError(f"{argument}: {fault[1]}")
    return text


def _unset(params: BackupParams | RestoreParams | VerificationParams, **config_values: Any) -> dict[str, Any]:
    """Fields of `params` where they were set, the config's values where not."""
    return {
        name: getattr(params, name) if name in params.model_fields_set else value
        for name, value in config_values.items()
    }
