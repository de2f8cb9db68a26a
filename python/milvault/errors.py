"""Everything that Milvault raises.

All classes derive from [`BackupRecoveryError`], carry what a program needs as attributes, and pickle. A message says
what happened, to which thing, and what to do next. Neither `InsufficientStorageError` nor `PartitionNotFoundError` is a
`BackupError`, so that each reaches its own `except` clause even where one for `BackupError` stands before it.

Example:
    >>> error = InsufficientStorageError("no room", required_bytes=3 * 1024**3, available_bytes=1024**3)
    >>> f"{error.required_gb:.1f} of {error.available_gb:.1f}"
    '3.0 of 1.0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BYTES_PER_GB = 1024**3


class BackupRecoveryError(Exception):
    """The base of all errors here.

    Attributes:
        message: What happened, to which thing, and what to do next.
        collection_name: The collection it happened to, where there is one.
        backup_id: The backup it happened to, where there is one.
        context: Whatever else is known, by name.
        temporary: Whether the same call may succeed when repeated.
        kind: A stable word for the sort of failure, as the command line's JSON shows it.
    """

    kind: str = "error"
    _own_attributes: ClassVar[tuple[str, ...]] = ("collection_name", "backup_id")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
    ) -> None:
        # Only the message goes to `args`: pickle calls the class with those and then sets the attributes.
        super().__init__(message)
        self.message = message
        self.collection_name = collection_name
        self.backup_id = backup_id
        self.context: dict[str, Any] = dict(context or {})
        self.temporary = False

    def __str__(self) -> str:
        return self.message

    @classmethod
    def _attribute_names(cls) -> list[str]:
        return [name for base in reversed(cls.__mro__) for name in vars(base).get("_own_attributes", ())]

    def to_dict(self) -> dict[str, Any]:
        """The error as JSON-ready values: class, kind, message, temporary, context, and the attributes that are set."""
        attributes = {name: getattr(self, name) for name in self._attribute_names()}
        return {
            "type": type(self).__name__,
            "kind": self.kind,
            "message": self.message,
            "temporary": self.temporary,
            **{name: value for name, value in attributes.items() if value not in (None, [], {})},
            **({"context": self.context} if self.context else {}),
        }

    @classmethod
    def from_details(cls, kind: str, message: str, details: Mapping[str, Any], *, temporary: bool) -> Any:
        """An error of this class from what the core reports; details that are no attribute become `context`."""
        names = cls._attribute_names()
        known = {name: value for name, value in details.items() if name in names and value is not None}
        context = {name: value for name, value in details.items() if name not in names}
        error = cls(message, context=context, **known)
        error.kind = kind
        error.temporary = temporary
        return error


class InvalidArgumentError(BackupRecoveryError, ValueError):
    """An argument that cannot be right, or that this version cannot serve."""

    kind = "invalid_argument"


class DatabaseLockedError(BackupRecoveryError):
    """Another process has the Milvus Lite database open.

    Attributes:
        lock_file: The lock that it holds.
        holder_pid: The process, where the system tells.
    """

    kind = "locked"
    _own_attributes = ("lock_file", "holder_pid")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        lock_file: str | None = None,
        holder_pid: int | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.lock_file = lock_file
        self.holder_pid = holder_pid


class BackupError(BackupRecoveryError):
    """A backup could not be made.

    Attributes:
        storage_path: Where it was being written.
        storage_type: How it was being stored.
    """

    kind = "backup"
    _own_attributes = ("storage_path", "storage_type")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        storage_path: str | None = None,
        storage_type: str | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.storage_path = storage_path
        self.storage_type = storage_type


class CollectionNotFoundError(BackupError, LookupError):
    """The server has no such collection."""

    kind = "collection_not_found"


class BackupTimeoutError(BackupError, TimeoutError):
    """A backup did not finish in its time; what it had written was removed."""

    kind = "timeout"


class RestoreError(BackupRecoveryError):
    """A restore could not be carried out; the collection that was there is untouched.

    Attributes:
        target_collection_name: The collection it was to make.
    """

    kind = "restore"
    _own_attributes = ("target_collection_name",)

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        target_collection_name: str | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.target_collection_name = target_collection_name


class RestoreTimeoutError(RestoreError, TimeoutError):
    """A restore did not finish in its time; the collection that was there is untouched."""

    kind = "timeout"


class BackupNotFoundError(BackupRecoveryError, LookupError):
    """There is no such backup.

    Attributes:
        backup_name: The name it was asked for by.
        storage_path: The repository it was looked for in.
    """

    kind = "backup_not_found"
    _own_attributes = ("backup_name", "storage_path")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        backup_name: str | None = None,
        storage_path: str | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.backup_name = backup_name
        self.storage_path = storage_path


class BackupCorruptedError(BackupRecoveryError):
    """Files of a backup are damaged, missing, or not what its manifest promises.

    Attributes:
        expected_checksum: The checksum that the backup recorded.
        actual_checksum: The checksum that the file has.
        checksum_algorithm: The algorithm of both.
        failed_files: The damaged files, as paths within the backup.
    """

    kind = "backup_corrupted"
    _own_attributes = (
        "expected_checksum",
        "actual_checksum",
        "checksum_algorithm",
        "failed_files",
    )

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        expected_checksum: str | None = None,
        actual_checksum: str | None = None,
        checksum_algorithm: str | None = None,
        failed_files: Sequence[str] = (),
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.expected_checksum = expected_checksum
        self.actual_checksum = actual_checksum
        self.checksum_algorithm = checksum_algorithm
        self.failed_files = list(failed_files)


class BackupStorageError(BackupRecoveryError):
    """The repository's storage refused: permissions, a wrong place, I/O.

    Attributes:
        storage_path: The file, folder or object.
        error_code: The system's or the store's own code.
        permissions_issue: Whether rights are what is missing.
    """

    kind = "storage"
    _own_attributes = ("storage_path", "error_code", "permissions_issue")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        storage_path: str | None = None,
        error_code: str | None = None,
        permissions_issue: bool = False,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.storage_path = storage_path
        self.error_code = error_code
        self.permissions_issue = permissions_issue


class ReadOnlyRepositoryError(BackupStorageError):
    """The repository was opened with `read_only`, and what was asked for would change it. Nothing was touched."""

    kind = "read_only"


class ForeignBackupError(BackupRecoveryError):
    """The backup is milvus-backup's own, which is read where it lies and never changed. Nothing was touched.

    Attributes:
        backup_name: Its name, which is its folder's.
        storage_path: Where it is.
    """

    kind = "foreign"
    _own_attributes = ("backup_name", "storage_path")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        backup_name: str | None = None,
        storage_path: str | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.backup_name = backup_name
        self.storage_path = storage_path


class BackupAlreadyExistsError(BackupRecoveryError):
    """A backup of that name exists.

    Attributes:
        backup_name: The name that is taken.
        existing_backup_id: The backup that has it.
        storage_path: Where that one is.
    """

    kind = "already_exists"
    _own_attributes = ("backup_name", "existing_backup_id", "storage_path")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        backup_name: str | None = None,
        existing_backup_id: str | None = None,
        storage_path: str | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.backup_name = backup_name
        self.existing_backup_id = existing_backup_id
        self.storage_path = storage_path


class RestoreValidationError(BackupRecoveryError):
    """A restore's target, or its outcome, is not as it has to be; the collection that was there is untouched.

    Attributes:
        validation_errors: Each thing that is wrong.
        target_collection_name: The collection it was to make.
    """

    kind = "restore_validation"
    _own_attributes = ("validation_errors", "target_collection_name")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        validation_errors: Sequence[str] = (),
        target_collection_name: str | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.validation_errors = list(validation_errors)
        self.target_collection_name = target_collection_name


class InsufficientStorageError(BackupRecoveryError):
    """Too little space, known beforehand or found while writing.

    Attributes:
        required_bytes: How much is needed, as far as it can be told.
        available_bytes: How much there is.
        storage_path: Where.
    """

    kind = "insufficient_storage"
    _own_attributes = ("required_bytes", "available_bytes", "storage_path")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        required_bytes: int = 0,
        available_bytes: int = 0,
        storage_path: str | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.required_bytes = required_bytes
        self.available_bytes = available_bytes
        self.storage_path = storage_path

    def to_dict(self) -> dict[str, Any]:
        """As all errors' `to_dict`, with both sizes in GB too."""
        return {**super().to_dict(), "required_gb": self.required_gb, "available_gb": self.available_gb}

    @property
    def required_gb(self) -> float:
        """`required_bytes` in units of 1024³ bytes."""
        return self.required_bytes / _BYTES_PER_GB

    @property
    def available_gb(self) -> float:
        """`available_bytes` in units of 1024³ bytes."""
        return self.available_bytes / _BYTES_PER_GB


class BackupInProgressError(BackupRecoveryError):
    """Someone else is working on this collection or backup.

    Attributes:
        progress_percentage: How far they are, 0 to 100, where they say so.
    """

    kind = "in_progress"
    _own_attributes = ("progress_percentage",)

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        progress_percentage: float | None = None,
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.progress_percentage = progress_percentage


class PartitionNotFoundError(BackupRecoveryError, LookupError):
    """There is no such partition.

    Attributes:
        partition_name: The one that was asked for.
        available_partitions: Those that there are.
    """

    kind = "partition_not_found"
    _own_attributes = ("partition_name", "available_partitions")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        partition_name: str | None = None,
        available_partitions: Sequence[str] = (),
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.partition_name = partition_name
        self.available_partitions = list(available_partitions)


class SchemaIncompatibleError(BackupRecoveryError):
    """The target cannot hold what the backup has.

    Attributes:
        backup_schema: The schema in the backup.
        target_schema: The schema of the target, where there is one.
        incompatibilities: Each reason.
    """

    kind = "schema_incompatible"
    _own_attributes = ("backup_schema", "target_schema", "incompatibilities")

    def __init__(
        self,
        message: str = "",
        collection_name: str | None = None,
        backup_id: str | None = None,
        context: Mapping[str, Any] | None = None,
        *,
        backup_schema: Mapping[str, Any] | None = None,
        target_schema: Mapping[str, Any] | None = None,
        incompatibilities: Sequence[str] = (),
    ) -> None:
        super().__init__(message, collection_name, backup_id, context)
        self.backup_schema = dict(backup_schema) if backup_schema is not None else None
        self.target_schema = dict(target_schema) if target_schema is not None else None
        self.incompatibilities = list(incompatibilities)


class OperationTimeoutError(BackupRecoveryError, TimeoutError):
    """Something other than a backup or a restore, such as a verification, did not finish in its time."""

    kind = "timeout"


_TIMEOUTS: dict[str, type[BackupRecoveryError]] = {"backup": BackupTimeoutError, "restore": RestoreTimeoutError}

_BY_KIND: dict[str, type[BackupRecoveryError]] = {
    error_class.kind: error_class
    for error_class in (
        BackupError,
        RestoreError,
        CollectionNotFoundError,
        BackupNotFoundError,
        BackupCorruptedError,
        BackupStorageError,
        ReadOnlyRepositoryError,
        ForeignBackupError,
        BackupAlreadyExistsError,
        RestoreValidationError,
        InsufficientStorageError,
        BackupInProgressError,
        PartitionNotFoundError,
        SchemaIncompatibleError,
        InvalidArgumentError,
    )
}


def error_of_kind(operation: str, report: Mapping[str, Any]) -> BackupRecoveryError:
    """The exception for an error that the core reports.

    Args:
        operation: The core's operation, such as `backup`; a deadline is a `BackupError` or `RestoreError` by it.
        report: `kind`, `message`, `temporary` and `details` (attributes of the exception's class; the rest is context).
    """
    kind = str(report.get("kind", "internal"))
    error_class = _BY_KIND.get(kind, BackupRecoveryError)
    if kind == "timeout":
        error_class = _TIMEOUTS.get(operation, OperationTimeoutError)
    error: BackupRecoveryError = error_class.from_details(
        kind, str(report.get("message", kind)), report.get("details") or {}, temporary=bool(report.get("temporary"))
    )
    return error
