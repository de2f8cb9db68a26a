"""`BackupRecoveryConfig`: where backups go and how they are made, unless a call says otherwise."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_core import PydanticCustomError

from ._model import Count, Level, Model, PositiveCount, PositiveRate, PositiveSeconds, Seconds
from ._urls import fault_of
from .enums import BackupStorageType, ChecksumAlgorithm, LinkPolicy

if TYPE_CHECKING:
    from typing_extensions import Self

_ENVIRONMENT_PREFIX = "MILVAULT_"


def _path_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _without_credentials(root: str) -> str:
    """`root`, unless it is a URL that holds what would then show in every path."""
    if fault := fault_of(root):
        raise PydanticCustomError(*fault)
    return root


Root = Annotated[str, BeforeValidator(_path_text), AfterValidator(_without_credentials)]


class MilvusStorage(Model):
    """The storage that a Milvus server itself writes to.

    Attributes:
        url: The folder that `insert_log` lies in, or that place in an object store (`s3://bucket/files`: the bucket and
            the root path of the server's settings), or the path of the server's own `milvus.yaml`.
        options: Options of the object store, such as `aws_endpoint` or `aws_access_key_id`; never shown. They win over
            what a `milvus.yaml` says.
    """

    url: Annotated[Root, Field(min_length=1)]
    options: dict[str, SecretStr] = Field(default_factory=dict)


def _storage(value: Any) -> Any:
    return {"url": value} if isinstance(value, str | os.PathLike) else value


def _words(value: Any) -> Any:
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


class BackupRecoveryConfig(Model):
    """Settings of a `BackupManager`. A field that a params object sets wins over the one here.

    A value out of range is a `pydantic.ValidationError` that names the field and the range.

    Example:
        >>> BackupRecoveryConfig(compression_level=9).compression_level
        9
    """

    default_storage_type: BackupStorageType = BackupStorageType.LOCAL_FILE
    local_backup_root_path: Annotated[Root, Field(min_length=1)] = "./milvus_backups"
    """A folder, or an object store's URL (`s3://bucket/prefix`, `gs://`, `az://`, `file://`)."""
    storage_options: dict[str, SecretStr] = Field(default_factory=dict)
    """Options of the object store, such as `aws_endpoint` or `aws_access_key_id`; never shown."""
    read_only: bool = False
    """The repository is only read: what would change it is refused before anything is touched."""
    journal_root: Annotated[Root, Field(min_length=1)] | None = None
    """Where restores note what they do to a server, if not in the repository, which may be read-only then: a folder or
    an object store's URL, the same for all who restore to that server."""
    milvus_backup_bucket: str | None = None
    """Has to stay unset where native backups are made: they go where all backups go, into an object store too."""
    milvus_storage: Annotated[MilvusStorage | None, BeforeValidator(_storage)] = None
    """The storage that Milvus itself writes to: where native backups come from, and the rows of Parquet ones. A URL or
    a path alone will do."""
    milvus_management: Annotated[str, Field(pattern=r"^https?://[^/@\s]+/?$")] | None = None
    """The server's management port, such as `http://milvus:9091`: from 2.4 on, it is asked there to remove no files
    while they are copied."""

    link: LinkPolicy = LinkPolicy.NEVER
    """Whether native backups, and those that `adopt_backup` takes in, may share files with where they come from."""

    default_chunk_size_mb: PositiveCount = 256
    """About how many MiB of rows, in memory, one data file holds."""
    max_concurrent_chunks: PositiveCount = 4
    compression_enabled: bool = True
    compression_level: Level = 6

    enable_checksum_verification: bool = True
    """Off: backups are verified neither after they are made nor before they are restored, unless a call asks for it."""
    checksum_algorithm: ChecksumAlgorithm = ChecksumAlgorithm.SHA256
    deep_verification_interval_days: PositiveCount = 7
    """`verify_due` lists backups whose last DEEP verification is older."""
    auto_verify_after_backup: bool = True
    auto_verify_before_restore: bool = True

    default_backup_timeout: PositiveSeconds = 3600.0
    """Seconds."""
    default_restore_timeout: PositiveSeconds = 3600.0
    """Seconds."""
    verification_timeout: PositiveSeconds = 1800.0
    """Seconds."""

    retention_count: PositiveCount = 10
    """So many of a collection's newest backups stay."""
    retention_days: PositiveCount = 30
    """Backups that are no older than this many days stay."""
    min_backups_to_keep: Count = 3
    """So many of the newest stay, whatever else is said."""
    retention_daily: Count = 0
    """The newest backup of each of so many days (UTC) that have one stays."""
    retention_weekly: Count = 0
    """As `retention_daily`, for weeks from Monday to Sunday."""
    retention_monthly: Count = 0
    """As `retention_daily`, for months."""
    retention_tags: Annotated[list[str], BeforeValidator(_words)] = Field(default_factory=list)
    """Backups with one of these tags stay; in the environment, separated by commas."""

    retry_transient_errors: bool = True
    max_retries: Count = 3
    retry_delay_seconds: Seconds = 5.0
    progress_poll_interval: PositiveSeconds = 2.0
    """Seconds between two calls of a progress callback."""
    bandwidth_limit_mib: PositiveRate | None = None
    """MiB per second that one operation may move to and from the repository; `None` for no limit."""

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, **arguments: Any) -> Self:
        """The settings from a YAML file and the environment: arguments win over environment, that over the file.

        Environment variables are `MILVAULT_` and a field's name in capitals, such as `MILVAULT_COMPRESSION_LEVEL`;
        `MILVAULT_ROOT` is short for `MILVAULT_LOCAL_BACKUP_ROOT_PATH`. `MILVAULT_STORAGE_OPTIONS` and
        `MILVAULT_MILVUS_STORAGE` hold JSON. A variable that is empty counts as not set.

        Args:
            path: A YAML file with fields' names as keys. Left out: the one that `MILVAULT_CONFIG` names, if any.
            **arguments: Fields; `None` means not given.

        Raises:
            pydantic.ValidationError: A value is out of range, or the file has a key that is no field.
            InvalidArgumentError: The file cannot be read or is no YAML mapping, PyYAML is not installed, or a variable
                that has to hold JSON does not.

        Example:
            >>> BackupRecoveryConfig.load(compression_level=9).compression_level
            9
        """
        path = path if path is not None else os.environ.get(_ENVIRONMENT_PREFIX + "CONFIG") or None
        values = {**(_read_yaml(Path(path)) if path is not None else {}), **_environment(cls)}
        values.update({name: value for name, value in arguments.items() if value is not None})
        return cls.model_validate(values)


_IN_JSON = ("storage_options", "milvus_storage")


def _environment(config: type[BackupRecoveryConfig]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if root := os.environ.get(_ENVIRONMENT_PREFIX + "ROOT"):
        values["local_backup_root_path"] = root
    for name in config.model_fields:
        variable = _ENVIRONMENT_PREFIX + name.upper()
        if text := os.environ.get(variable):
            values[name] = _from_json(variable, text) if name in _IN_JSON else text
    return values


def _from_json(variable: str, text: str) -> Any:
    from .errors import InvalidArgumentError

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        # Neither the text nor the parser's words, which quote it: it may hold a secret.
        raise InvalidArgumentError(f"the environment variable {variable} has to hold a JSON object") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    from .errors import InvalidArgumentError

    try:
        import yaml
    except ImportError as error:
        raise InvalidArgumentError("reading a YAML file needs PyYAML: pip install 'milvault[cli]'") from error
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(f"the configuration file {path} cannot be read: {error}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # Without the line itself, which the whole error quotes: it may hold a secret.
        mark = error.problem_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidArgumentError(
            f"the configuration file {path} is not valid YAML{where}: {error.problem or 'it cannot be parsed'}"
        ) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgumentError(f"the configuration file {path} is not valid YAML: {reason}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InvalidArgumentError(f"the configuration file {path} has to be a mapping of settings to values")
    return values
