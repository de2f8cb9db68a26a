"""`BackupManager`: backs collections up, proves backups, restores them. Everything is async; the core does the work."""

from __future__ import annotations

import datetime
import logging
import math
import os
import time
from typing import TYPE_CHECKING, Any

from ._engine import Engine
from ._requests import (
    adopt_request,
    backup_named,
    backup_request,
    checked_name,
    checked_timeout,
    copy_request,
    export_request,
    milvus_storage_settings,
    open_request,
    prune_request,
    repository_settings,
    restore_request,
    retry_settings,
    verify_request,
)
from .config import BackupRecoveryConfig
from .connection import CollectionManager, ConnectionManager
from .enums import BackupOwner, BackupState, BackupStorageType, VerificationType
from .errors import BackupCorruptedError, BackupRecoveryError, BackupStorageError, InvalidArgumentError
from .params import BackupParams, RestoreParams, VerificationParams
from .progress import BackupProgress, ProgressStream, reporting
from .results import (
    BackupList,
    BackupMetadata,
    BackupResult,
    BackupSet,
    Check,
    CheckResult,
    CopyResult,
    ExportResult,
    RestoreResult,
    VerificationResult,
    read_metadata,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydantic import SecretStr
    from typing_extensions import Self

    from ._moments import Moment
    from ._seam import Outcome, SessionFactory
    from .enums import BackupType, LinkPolicy
    from .reader import BackupReader

    ProgressSink = Callable[[BackupProgress], Any] | ProgressStream | bool | None


logger = logging.getLogger("milvault")


class BackupManager:
    """Makes, lists, proves, restores and deletes the backups in one repository.

    It may be used from several `asyncio.run` calls one after another, not after a fork. `async with` closes it.

    A call that fails before its work began raises (wrong arguments, not found, locked, corrupt, incompatible).
    `create_backup` and `restore_backup` tell what went wrong while they ran (server, deadline, disk) by a result with
    `success=False`; `result.raise_for_error()` raises the same typed error. Canceling the task stops the work, cleans
    up within 10 seconds, and raises `CancelledError`.

    Args:
        connection_manager: The server. Unset: that of `collection_manager`; without either, a manager that has a
            repository but no server, which can list, get, verify and delete.
        collection_manager: Looks at the server's collections.
        config: Where backups go and how they are made. Unset: the defaults.

    Example:
        ```python
        async with BackupManager.connect("./milvus.db", "./milvus_backups") as manager:
            result = await manager.create_backup("articles")
            result.raise_for_error()
            print(result.backup_id, result.row_count)
        ```
    """

    def __init__(
        self,
        connection_manager: ConnectionManager | None = None,
        collection_manager: CollectionManager | None = None,
        config: BackupRecoveryConfig | None = None,
        *,
        session_factory: SessionFactory | None = None,
    ) -> None:
        if connection_manager is None and collection_manager is not None:
            connection_manager = collection_manager.connection_manager
        if collection_manager is None and connection_manager is not None:
            collection_manager = CollectionManager(connection_manager, session_factory=session_factory)
        self.connection_manager = connection_manager
        self.collection_manager = collection_manager
        self.config = config if config is not None else BackupRecoveryConfig()
        if collection_manager is not None:
            collection_manager.repeat_as(self.config)
        self._engine = Engine(
            connection_manager,
            repository=repository_settings(self.config),
            milvus_storage=lambda: milvus_storage_settings(self.config),
            settings={**retry_settings(self.config), "milvus_management": self.config.milvus_management},
            poll_interval=self.config.progress_poll_interval,
            session_factory=session_factory,
        )

    @classmethod
    def connect(
        cls,
        uri: str | os.PathLike[str] | None,
        root: str | os.PathLike[str] | None = None,
        *,
        token: str | SecretStr | None = None,
        db_name: str = "default",
        user: str | None = None,
        password: str | SecretStr | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        server_name: str | None = None,
        storage_options: dict[str, str] | None = None,
        config: BackupRecoveryConfig | None = None,
        session_factory: SessionFactory | None = None,
    ) -> Self:
        """A manager in one line. Nothing is contacted yet.

        Args:
            uri: `http(s)://host:port`, a path ending in `.db` for Milvus Lite, or `None` for no server.
            root: A folder or an object store's URL. Unset: the config's.
            token: As for `ConnectionManager`, like all up to `server_name`.
            db_name: The database.
            user: A user's name, with `password`.
            password: The user's password.
            ca_file: A PEM file of authorities to trust.
            cert_file: A PEM file with our certificate.
            key_file: A PEM file with our key.
            server_name: The name that the server's certificate has to bear.
            storage_options: Options of the object store, such as `aws_endpoint`.
            config: All other settings.
            session_factory: Makes the core's sessions; for tests.

        Raises:
            InvalidArgumentError: The URI is no server's address.
        """
        config = config if config is not None else BackupRecoveryConfig()
        changes: dict[str, Any] = {}
        if root is not None:
            changes["local_backup_root_path"] = os.fspath(root)
        if storage_options is not None:
            changes["storage_options"] = storage_options
        if changes:
            given = {name: getattr(config, name) for name in config.model_fields_set}
            config = BackupRecoveryConfig.model_validate({**given, **changes})
        connection = None
        if uri is not None:
            connection = ConnectionManager(
                uri,
                token,
                db_name,
                user=user,
                password=password,
                ca_file=ca_file,
                cert_file=cert_file,
                key_file=key_file,
                server_name=server_name,
            )
        return cls(connection_manager=connection, config=config, session_factory=session_factory)

    async def create_backup(
        self,
        collection_name: str,
        params: BackupParams | None = None,
        *,
        progress: ProgressSink = None,
        timeout: float | None = None,
    ) -> BackupResult:
        """Backs one collection up.

        Args:
            collection_name: The collection.
            params: How; a field left unset takes the config's value.
            progress: A function (plain or async) given `BackupProgress`, a `ProgressStream`, or `True` for a bar.
            timeout: Seconds it may take. Unset: the config's `default_backup_timeout`.

        Returns:
            The backup, or `success=False` and what went wrong while it was made; then nothing of it is left.

        Raises:
            CollectionNotFoundError: There is no such collection.
            PartitionNotFoundError: There is no such partition.
            BackupAlreadyExistsError: The collection has a backup of that name.
            BackupInProgressError: Someone else is backing the collection up.
            InsufficientStorageError: The rows will not fit.
            InvalidArgumentError: An argument cannot be right.
        """
        params = params if params is not None else BackupParams()
        result, outcome = await self._backup(None, collection_name, params, progress, timeout)
        if not outcome.is_result:
            outcome.unwrap()
        return result

    async def create_backups(
        self,
        filter: str | Iterable[str] | None = None,  # noqa: A002 - what Milvus's own tools call it
        name: str | None = None,
        params: BackupParams | None = None,
        *,
        progress: ProgressSink = None,
        timeout: float | None = None,
    ) -> BackupSet:
        """Backs several collections up, of several databases too, one after the other: each uses the server fully.

        One that fails does not stop the others. Backups from Milvus's own files, native ones and Parquet ones, all show
        the same moment; others each their own time. Of a set of one moment that holds everything (no `filter`), users,
        roles and grants are noted too; passwords are not, which Milvus tells nobody.

        Args:
            filter: `collection`, `database.collection` or `database.*`; several in one text with commas between, or as
                several texts. A collection without a database is of the connection's. Unset: every collection of every
                database. Collections that a restore is just making (`mv_` and eight hex digits) only if named.
            name: The backups' common name. Unset: each has one of its own.
            params: How; for all of them.
            progress: As for `create_backup`; of one collection after the other.
            timeout: Seconds that each may take. Unset: the config's `default_backup_timeout`.

        Returns:
            How each went; `success` where all are there.

        Raises:
            CollectionNotFoundError: The filter means nothing that is there. (One that is named and is not there is
                among the `failed`.)
            InvalidArgumentError: An argument cannot be right, or there is no such database to take collections of.
            BackupRecoveryError: The server cannot be reached.

        Example:
            ```python
            backups = await manager.create_backups("articles, shop.*", name="nightly")
            backups.raise_for_error()
            ```
        """
        from ._sets import matching, patterns_of

        began = time.perf_counter()
        params = params if params is not None else BackupParams()
        if name is not None:
            if params.backup_name not in (None, name):
                raise InvalidArgumentError(f"two names for one set: {name!r} and {params.backup_name!r}; give one")
            params = BackupParams.model_validate({**params.model_dump(exclude_unset=True), "backup_name": name})
        own = "default" if self.connection_manager is None else self.connection_manager.db_name
        patterns = None if filter is None else patterns_of(filter, own)
        backup_request("any", params, self.config, timeout)  # what would be wrong for each is said once
        results = []
        members = await matching(self._engine, patterns)
        moments = await self._moments(members, params, timeout)
        for (database, collection_name), moment in zip(members, moments, strict=True):
            result, _ = await self._backup(database, collection_name, params, progress, timeout, moment)
            results.append(result)
        noted = await self._note_set(params.backup_name, results, moments) if patterns is None and any(moments) else {}
        return BackupSet(
            success=all(result.success for result in results),
            name=params.backup_name,
            backups=results,
            **noted,
            execution_time_ms=(time.perf_counter() - began) * 1000,
        )

    async def _moments(
        self, members: list[tuple[str, str]], params: BackupParams, timeout: float | None
    ) -> list[dict[str, Any] | None]:
        """The moment that each member's backup is to show, the same for all; `None` where the server gives the rows."""
        storage_type = params.storage_type or self.config.default_storage_type
        is_native = storage_type is BackupStorageType.MILVUS_NATIVE
        if not is_native and (self.config.milvus_storage is None or params.source == "query"):
            return [None] * len(members)
        collections = [{"database": database, "collection_name": name} for database, name in members]
        request = {
            "collections": collections,
            "storage_type": storage_type.value,
            "source": params.source,
            "duplicates": params.duplicates,
            "timeout_seconds": checked_timeout(timeout, self.config.default_backup_timeout),
        }
        moments: list[dict[str, Any] | None] = (await self._engine.run("moments", request)).unwrap()
        return moments

    async def _note_set(
        self, name: str | None, results: list[BackupResult], moments: list[dict[str, Any] | None]
    ) -> dict[str, Any]:
        """Notes which backups belong together, and who may do what on the server; what a `BackupSet` tells of that."""
        made = [result for result in results if result.success]
        members = [
            {"database": result.database, "collection_name": result.collection_name, "backup_id": result.backup_id}
            for result in made
        ]
        if not members:
            return {}
        timestamp = next(moment["timestamp"] for moment in moments if moment is not None)
        outcome = await self._engine.run("note_set", {"name": name, "timestamp": timestamp, "members": members})
        if outcome.error is not None:
            told = f"which backups belong together, and users, roles and grants, could not be noted: {outcome.error}"
            return {"warnings": [told]}
        noted: dict[str, Any] = outcome.value
        return noted

    async def _backup(
        self,
        database: str | None,
        collection_name: str,
        params: BackupParams,
        progress: ProgressSink,
        timeout: float | None,
        moment: dict[str, Any] | None = None,
    ) -> tuple[BackupResult, Outcome]:
        began = time.perf_counter()
        own = "default" if self.connection_manager is None else self.connection_manager.db_name
        shown = collection_name if database in (None, own) else f"{database}.{collection_name}"
        with reporting(progress, f"Backing up {shown}") as sink:
            request = backup_request(collection_name, params, self.config, timeout, database, moment)
            outcome = await self._engine.run("backup", request, sink=sink)
        milliseconds = (time.perf_counter() - began) * 1000
        if outcome.error is None:
            return _finished_backup(outcome.value, milliseconds), outcome
        return self._failed_backup(database or own, collection_name, params, outcome.error, milliseconds), outcome

    async def check(self, collection_name: str | None = None, *, timeout: float | None = None) -> CheckResult:
        """Looks whether everything is as it has to be, before the first backup.

        Whether the server answers, the repository can be written, and `milvus_storage`, where it is set, is what this
        server writes to; whether `milvus_management`, where it is set, can be asked to keep files. Writes one small file to the repository and deletes it again, unless it is `read_only`.

        Args:
            collection_name: The collection whose files are looked for in Milvus's storage. Unset: one that has some.
            timeout: Seconds it may take. Unset: the config's `verification_timeout`.

        Returns:
            What was found; `success` where nothing is wrong. What is wrong is no exception.

        Raises:
            InvalidArgumentError: An argument or a setting cannot be right.

        Example:
            ```python
            for found in (await manager.check()).checks:
                print(found.name, found.success, found.message)
            ```
        """
        request = {
            "collection_name": None if collection_name is None else checked_name("collection_name", collection_name),
            "timeout_seconds": checked_timeout(timeout, self.config.verification_timeout),
        }
        unreachable: list[Check] = []
        has_server = self.connection_manager is not None
        try:
            outcome = await self._engine.run("check", request, needs_server=has_server)
        except InvalidArgumentError:
            raise
        except BackupRecoveryError as error:  # a Milvus Lite that cannot be opened
            unreachable = [Check(name="server", success=False, message=str(error))]
            outcome = await self._engine.run("check", request, needs_server=False)
        if isinstance(outcome.error, BackupStorageError):  # a root that cannot be one
            unusable = Check(name="repository", success=False, message=str(outcome.error))
            return CheckResult(success=False, checks=[*unreachable, unusable])
        found = CheckResult.model_validate(outcome.unwrap())
        return CheckResult(success=found.success and not unreachable, checks=[*unreachable, *found.checks])

    async def list_backups(
        self,
        collection_name: str | None = None,
        *,
        database: str | None = None,
        state: BackupState | None = None,
        backup_type: BackupType | None = None,
        tags: Iterable[str] = (),
        created_after: datetime.datetime | None = None,
        created_before: datetime.datetime | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> BackupList:
        """The backups in the repository, newest first. Needs no server.

        Backups that milvus-backup made, in folders of the repository's root, are among them, one for each collection,
        with `owner` `MILVUS_BACKUP`; but in an object store not where one collection is asked for.

        Args:
            collection_name: Only those of this collection.
            database: Only those of collections in this database. Unset: the connection's; without a server, all.
            state: Only those in this state.
            backup_type: Only those of this type.
            tags: Only those that have all of these.
            created_after: Only those made at this time or later; needs a time zone.
            created_before: Only those made before this time; needs a time zone.
            limit: At most so many.
            offset: Leaves out the first so many.

        Returns:
            A list; its `damaged` has the backups whose manifest cannot be read, whatever the filters by content say.

        Raises:
            InvalidArgumentError: A time without a zone, or a negative limit or offset.
            BackupStorageError: The repository cannot be read.
        """
        from ._listing import read_listing

        _check_zone("created_after", created_after)
        _check_zone("created_before", created_before)
        if offset < 0 or (limit is not None and limit < 0):
            raise InvalidArgumentError(f"limit and offset cannot be negative, not {limit} and {offset}")
        if collection_name is not None:
            checked_name("collection_name", collection_name)
        if database is None and self.connection_manager is not None:
            database = self.connection_manager.db_name
        request = {"collection_name": collection_name, "database": database}
        outcome = await self._engine.run("list", request, needs_server=False, read=read_listing)
        found: BackupList = outcome.unwrap()
        wanted_tags = set(tags)
        backups = [
            backup
            for backup in found
            if (state is None or backup.state is state)
            and (backup_type is None or backup.backup_type is backup_type)
            and (not wanted_tags or wanted_tags <= set(backup.tags))
            and (created_after is None or backup.created_at >= created_after)
            and (created_before is None or backup.created_at < created_before)
        ]
        return BackupList(backups[offset : None if limit is None else offset + limit], found.damaged)

    async def get_backup(self, backup_id: str | os.PathLike[str], collection_name: str | None = None) -> BackupMetadata:
        """One backup's manifest. Needs no server.

        Args:
            backup_id: Its id or its name; of a backup that milvus-backup made, also its path or URL.
            collection_name: Its collection, where the name alone is not unique.

        Raises:
            BackupNotFoundError: There is none.
            BackupCorruptedError: Its manifest is damaged.
        """
        request = backup_named(backup_id, collection_name)
        return read_metadata((await self._engine.run("get", request, needs_server=False)).unwrap())

    async def verify_backup(
        self,
        backup_id: str | os.PathLike[str],
        collection_name: str | None = None,
        params: VerificationParams | None = None,
        *,
        progress: ProgressSink = None,
        timeout: float | None = None,
    ) -> VerificationResult:
        """Proves that a backup is whole, or says what is not. Needs no server, but for `DEEP`, a trial restore.

        One that milvus-backup made has no checksums: `CHECKSUM` looks for every file that its metadata names, decodes
        all of its rows, and holds them against what the metadata tells.

        Args:
            backup_id: Its id or its name; of a backup that milvus-backup made, also its path or URL.
            collection_name: Its collection, where the name alone is not unique.
            params: How; a field left unset takes the config's value.
            progress: As for `create_backup`.
            timeout: Seconds it may take. Unset: the config's `verification_timeout`.

        Returns:
            What was found, damage included.

        Raises:
            BackupNotFoundError: There is none.
            OperationTimeoutError: It did not finish in its time.
            SchemaIncompatibleError: `DEEP`, and the server cannot hold what the backup has.
        """
        params = params if params is not None else VerificationParams()
        with reporting(progress, f"Verifying {backup_id}") as sink:
            request = verify_request(backup_id, collection_name, params, self.config, timeout)
            deep = params.verification_type is VerificationType.DEEP
            outcome = await self._engine.run("verify", request, needs_server=deep, sink=sink)
        return VerificationResult.model_validate(outcome.unwrap())

    async def open_backup(
        self,
        backup_id: str | os.PathLike[str],
        collection_name: str | None = None,
        *,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        partition_names: Sequence[str] | None = None,
        as_of: Moment | None = None,
    ) -> BackupReader:
        """Opens a backup's rows for reading. Needs no server.

        Args:
            backup_id: Its id or its name; of a backup that milvus-backup made, also its path or URL.
            collection_name: Its collection, where the name alone is not unique.
            columns: Names of the columns to read, in this order; `$meta` holds the dynamic field. Unset: all.
            where: Only rows that this filter matches, in Milvus's style: `price < 10 and title like "The %"`.
            partition_names: Only rows of these partitions. Unset: all.
            as_of: The moment to show of a native backup, up to its own: a time with its zone, milliseconds since 1970
                or a timestamp of Milvus. Unset: the backup's own. `reader.history` says whether it is shown exactly.

        Returns:
            A stream of rows, to be closed after use.

        Raises:
            BackupNotFoundError: There is none.
            BackupCorruptedError: Its manifest, schema or chunk table is damaged.
            PartitionNotFoundError: The backup has no such partition.
            InvalidArgumentError: An unknown column, or a filter that is none.

        Example:
            ```python
            with await manager.open_backup("nightly", columns=["id", "title"]) as reader:
                table = pyarrow.table(reader)
            ```
        """
        from .reader import BackupReader

        request = open_request(
            backup_id, collection_name, columns=columns, where=where, partition_names=partition_names, as_of=as_of
        )
        outcome, rows = await self._engine.open(request)
        return BackupReader(rows, outcome.unwrap())

    async def export_backup(
        self,
        backup_id: str | os.PathLike[str],
        path: str | os.PathLike[str],
        collection_name: str | None = None,
        *,
        format: str | None = None,  # noqa: A002
        columns: Sequence[str] | None = None,
        where: str | None = None,
        partition_names: Sequence[str] | None = None,
        as_of: Moment | None = None,
        overwrite: bool = False,
        progress: ProgressSink = None,
        timeout: float | None = None,
    ) -> ExportResult:
        """Writes a backup's rows to one file. Needs no server.

        The file gets its name once it is whole: an export that fails or is canceled leaves nothing.

        Args:
            backup_id: Its id or its name; of a backup that milvus-backup made, also its path or URL.
            path: The file to make.
            collection_name: Its collection, where the name alone is not unique.
            format: `parquet`, `arrow` (IPC file), `csv` or `jsonl`. Unset: by the path's suffix.
            columns: As for `open_backup`, like `where` and `partition_names`.
            where: Only rows that this filter matches.
            partition_names: Only rows of these partitions.
            as_of: The moment to show of a native backup.
            overwrite: Whether to replace a file that is there.
            progress: As for `create_backup`.
            timeout: Seconds it may take. Unset: no limit.

        Raises:
            BackupNotFoundError: There is none.
            BackupCorruptedError: The backup is damaged.
            BackupStorageError: The file cannot be written.
            InvalidArgumentError: An argument cannot be right, or there is a file already.
        """
        began = time.perf_counter()
        with reporting(progress, f"Exporting {backup_id}") as sink:
            rows = open_request(
                backup_id, collection_name, columns=columns, where=where, partition_names=partition_names, as_of=as_of
            )
            request = export_request(rows, path, format, overwrite=overwrite, timeout=timeout)
            outcome = await self._engine.run("export", request, needs_server=False, sink=sink)
        value = outcome.unwrap()
        milliseconds = (time.perf_counter() - began) * 1000
        return ExportResult(
            backup_id=value["metadata"]["backup_id"],
            path=value["path"],
            row_count=value["row_count"],
            size_bytes=value["size_bytes"],
            execution_time_ms=milliseconds,
        )

    async def restore_backup(
        self,
        backup_id: str | os.PathLike[str],
        collection_name: str | None = None,
        params: RestoreParams | None = None,
        *,
        progress: ProgressSink = None,
        timeout: float | None = None,
    ) -> RestoreResult:
        """Makes a collection of a backup, or puts its rows into one.

        A collection that is to be replaced stays until the new one is proven. A backup that milvus-backup made is first
        decoded from end to end, whatever `verify_before_restore` says: it has no checksums.

        Args:
            backup_id: The backup's id or name; of one that milvus-backup made, also its path or URL.
            collection_name: The collection it was made of, where the name alone is not unique.
            params: How; a field left unset takes the config's value.
            progress: As for `create_backup`.
            timeout: Seconds it may take. Unset: the config's `default_restore_timeout`.

        Returns:
            The restore, or `success=False` and what went wrong while it ran; then nothing has changed, unless rows were
            to go into an existing collection. Where partitions were left out, `success=False` and `failed_partitions`.

        Raises:
            BackupNotFoundError: There is no such backup.
            BackupCorruptedError: It is damaged.
            RestoreValidationError: There is a collection of the target's name and neither `drop_existing` nor
                `into_existing` is on, keys are there already and `on_conflict` is `FAIL`, or there is no such database.
            PartitionNotFoundError: The backup has no such partition.
            SchemaIncompatibleError: The server, or the existing collection, cannot hold what the backup has.
            InvalidArgumentError: An argument cannot be right.
        """
        began = time.perf_counter()
        params = params if params is not None else RestoreParams()
        with reporting(progress, f"Restoring {backup_id}") as sink:
            request = restore_request(backup_id, collection_name, params, self.config, timeout)
            outcome = await self._engine.run("restore", request, may_create=not params.dry_run, sink=sink)
        milliseconds = (time.perf_counter() - began) * 1000
        if outcome.error is None:
            return _finished_restore(outcome.value, milliseconds)
        if not outcome.is_result:
            raise outcome.error
        return RestoreResult(
            success=False,
            backup_id=outcome.error.backup_id or os.fspath(backup_id),
            source_collection_name=collection_name,
            target_collection_name=params.target_collection_name or collection_name,
            execution_time_ms=milliseconds,
            error_message=str(outcome.error),
            error=outcome.error,
        )

    async def copy_backup(
        self,
        backup_id: str,
        collection_name: str | None = None,
        *,
        to: str | os.PathLike[str],
        storage_options: dict[str, str] | None = None,
        verify_after: bool = True,
        progress: ProgressSink = None,
        timeout: float | None = None,
    ) -> CopyResult:
        """Copies one backup, byte for byte, into another repository. Needs no server.

        Every file is checked against its checksum on its way. A copy that was stopped, by whatever, goes on from what
        it has brought over when it is asked for again; one that is complete is left as it is.

        Args:
            backup_id: Its id or its name.
            collection_name: Its collection, where the name alone is not unique.
            to: The other repository: a folder or an object store's URL.
            storage_options: Options of its object store. Unset: this repository's.
            verify_after: Whether the copy is read back and checked where it now is.
            progress: As for `create_backup`.
            timeout: Seconds it may take. Unset: the config's `default_backup_timeout`.

        Raises:
            BackupNotFoundError: There is no such backup.
            ForeignBackupError: It is milvus-backup's own: take it in with `adopt_backup`.
            BackupCorruptedError: A file is not what its checksum says: the copy is not made.
            BackupAlreadyExistsError: The other repository has another backup of that name.
            BackupInProgressError: Someone else is at work on the collection there.
            BackupStorageError: One of the repositories cannot be read, or written.
            OperationTimeoutError: It did not finish in its time.

        Example:
            ```python
            copied = await manager.copy_backup("nightly", "articles", to="s3://offsite/milvus")
            print(copied.storage_path, copied.files_copied)
            ```
        """
        with reporting(progress, f"Copying {backup_id}") as sink:
            request = copy_request(
                backup_id, collection_name, self.config, os.fspath(to), storage_options, verify_after, timeout
            )
            outcome = await self._engine.run("copy", request, needs_server=False, sink=sink)
        return CopyResult.model_validate(outcome.unwrap())

    async def adopt_backup(
        self,
        source: str | os.PathLike[str],
        collection_name: str | None = None,
        *,
        storage_options: dict[str, str] | None = None,
        tags: Iterable[str] = (),
        link: LinkPolicy | None = None,
        progress: ProgressSink = None,
        timeout: float | None = None,
    ) -> list[BackupMetadata]:
        """Takes a backup that `milvus-backup` made into the repository. Needs no server.

        Its files are copied, checksummed and decoded, and each collection in it becomes a native backup of its name
        here: listed, verified, read and restored like all others. Every file that its metadata names has to be there,
        with as many rows in each field as the metadata says.

        Args:
            source: The folder, or an object store's URL, that has `meta` and `binlogs` in it.
            collection_name: Only this collection.
            storage_options: Options of the object store that it is on. Unset: this repository's.
            tags: Words to find the backups by.
            link: Whether files may be linked instead of copied, where both are on one disk. Unset: the config's.
            progress: As for `create_backup`.
            timeout: Seconds it may take. Unset: the config's `default_backup_timeout`.

        Returns:
            A backup for each collection.

        Raises:
            BackupNotFoundError: There is no such backup, or it has no such collection.
            BackupCorruptedError: A file is missing, damaged, or has other rows than the rest; `failed_files` names it.
            BackupAlreadyExistsError: It was taken in before.
            SchemaIncompatibleError: It is of a form that this version does not read.

        Example:
            ```python
            for backup in await manager.adopt_backup("s3://a-bucket/backup/my_backup"):
                print(backup.collection_name, backup.row_count)
            ```
        """
        with reporting(progress, f"Taking in {os.fspath(source)}") as sink:
            request = adopt_request(
                os.fspath(source), collection_name, self.config, storage_options, list(tags), link, timeout
            )
            outcome = await self._engine.run("adopt", request, needs_server=False, sink=sink)
        return [BackupMetadata.model_validate(taken["metadata"]) for taken in outcome.unwrap()]

    async def delete_backup(self, backup_id: str | os.PathLike[str], collection_name: str | None = None) -> bool:
        """Deletes one backup for good. Needs no server.

        Args:
            backup_id: Its id or its name.
            collection_name: Its collection, where the name alone is not unique.

        Returns:
            True: it is gone.

        Raises:
            BackupNotFoundError: There is none.
            BackupInProgressError: Someone is reading it.
            ForeignBackupError: It is milvus-backup's own, which is never deleted from here.
        """
        request = backup_named(backup_id, collection_name)
        return bool((await self._engine.run("delete", request, needs_server=False)).unwrap())

    async def apply_retention_policy(
        self,
        collection_name: str | None = None,
        dry_run: bool = False,
        *,
        database: str | None = None,
        retention_count: int | None = None,
        retention_days: int | None = None,
        min_backups_to_keep: int | None = None,
        retention_daily: int | None = None,
        retention_weekly: int | None = None,
        retention_monthly: int | None = None,
        retention_tags: Iterable[str] | None = None,
    ) -> dict[str, Any]:
        """Deletes the backups that no rule keeps, each collection's by themselves. Needs no server.

        A backup stays where any rule keeps it: it is among the newest (`retention_count`, `min_backups_to_keep`), young
        (`retention_days`), the newest of a day, week or month, tagged, the newest that is verified, its time lies in
        the future, or a backup that stays builds on it. Backups that are being made or read, or whose manifest is
        damaged, are left alone.

        Args:
            collection_name: Only this collection's. Unset: every collection's.
            dry_run: Whether to say what would go, and delete nothing.
            database: Only collections in this database. Unset: the connection's; without a server, all.
            retention_count: This and the following win over the config's fields of the same names; 0 switches a rule
                off.
            retention_days: Days.
            min_backups_to_keep: Backups.
            retention_daily: Days that keep their newest backup.
            retention_weekly: Weeks that do.
            retention_monthly: Months that do.
            retention_tags: Tags that keep a backup.

        Returns:
            `backups_to_delete`, how many the plan deletes; `storage_to_free_gb`, in units of 1024³ bytes; `planned`,
            each of them with `backup_id`, `backup_name`, `database`, `collection_name`, `created_at`, `size_bytes`;
            `deleted_backup_ids`, those that are gone, none in a dry run; `kept`, id → every reason; `left_alone`, id →
            reason; `failed`, id → why it could not be deleted; `dry_run`.

        Raises:
            InvalidArgumentError: An argument cannot be right.
            BackupStorageError: The repository cannot be read, or not one backup could be deleted.

        Example:
            ```python
            plan = await manager.apply_retention_policy("articles", dry_run=True, retention_weekly=8)
            print(plan["backups_to_delete"], plan["kept"])
            ```
        """
        if database is None and self.connection_manager is not None:
            database = self.connection_manager.db_name
        given = {
            "retention_count": retention_count,
            "retention_days": retention_days,
            "min_backups_to_keep": min_backups_to_keep,
            "retention_daily": retention_daily,
            "retention_weekly": retention_weekly,
            "retention_monthly": retention_monthly,
            "retention_tags": retention_tags,
        }
        request = prune_request(collection_name, database, self.config, dry_run=dry_run, given=given)
        found: dict[str, Any] = (await self._engine.run("prune", request, needs_server=False)).unwrap()
        return found

    async def verify_due(
        self, collection_name: str | None = None, *, database: str | None = None, interval_days: float | None = None
    ) -> BackupList:
        """The backups whose last DEEP verification is too old, or that never had one. Needs no server.

        Those of milvus-backup, beside which nothing is noted, are not among them.

        Args:
            collection_name: Only those of this collection.
            database: As for `list_backups`.
            interval_days: Days. Unset: the config's `deep_verification_interval_days`.

        Raises:
            InvalidArgumentError: An argument cannot be right.
            BackupStorageError: The repository cannot be read.
        """
        days = self.config.deep_verification_interval_days if interval_days is None else interval_days
        if not (math.isfinite(days) and days >= 0):
            raise InvalidArgumentError(f"interval_days has to be 0 or more, not {days}")
        backups = await self.list_backups(collection_name, database=database)
        now, longest = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=days)
        due = (backup for backup in backups if _is_due(backup, now, longest))
        return BackupList((backup for backup in due if backup.owner is BackupOwner.MILVAULT), backups.damaged)

    async def close(self) -> None:
        """Ends all work and connections. A Milvus Lite goes on for pymilvus, until the process ends."""
        await self._engine.close()
        if self.collection_manager is not None:
            await self.collection_manager.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        server = None if self.connection_manager is None else self.connection_manager.label
        return f"BackupManager(server={server!r}, repository={self.config.local_backup_root_path!r})"

    def _failed_backup(
        self,
        database: str,
        collection_name: str,
        params: BackupParams,
        error: BackupRecoveryError,
        milliseconds: float,
    ) -> BackupResult:
        return BackupResult(
            success=False,
            backup_id=error.backup_id,
            backup_name=params.backup_name,
            collection_name=collection_name,
            database=database,
            storage_type=params.storage_type or self.config.default_storage_type,
            storage_path=getattr(error, "storage_path", None) or self.config.local_backup_root_path,
            execution_time_ms=milliseconds,
            state=BackupState.CANCELED if error.kind == "canceled" else BackupState.FAILED,
            error_message=str(error),
            error=error,
        )


def _finished_backup(value: dict[str, Any], milliseconds: float) -> BackupResult:
    metadata = BackupMetadata.model_validate(value["metadata"])
    found = value.get("verification")
    verification = None if found is None else VerificationResult.model_validate(found)
    error = None
    if verification is not None and not verification.success:
        error = BackupCorruptedError(
            f"backup {metadata.backup_id} was written but does not verify: {'; '.join(verification.errors)}; "
            "delete it, look at the storage, and make another one",
            collection_name=metadata.collection_name,
            backup_id=metadata.backup_id,
            failed_files=verification.files_failed,
        )
    return BackupResult(
        success=error is None,
        backup_id=metadata.backup_id,
        backup_name=metadata.backup_name,
        collection_name=metadata.collection_name,
        database=value["metadata"].get("database") or "default",
        storage_type=metadata.storage_type,
        storage_path=metadata.storage_path,
        size_bytes=metadata.size_bytes,
        row_count=metadata.row_count,
        execution_time_ms=milliseconds,
        state=metadata.state if error is None else BackupState.FAILED,
        error_message=None if error is None else str(error),
        warnings=value.get("warnings") or [],
        metadata=metadata,
        verification=verification,
        timings=value.get("timings") or {},
        error=error,
    )


def _is_due(backup: BackupMetadata, now: datetime.datetime, longest: datetime.timedelta) -> bool:
    last = backup.verifications.get(VerificationType.DEEP.value, {}).get("verified_at")
    try:
        verified_at = datetime.datetime.fromisoformat(str(last).replace("Z", "+00:00"))
        age = now - verified_at
    except (TypeError, ValueError):
        return True
    # Another machine's clock may be a little ahead; one that is further off proves nothing.
    return age > longest or age < -datetime.timedelta(days=1)


def _finished_restore(value: dict[str, Any], milliseconds: float) -> RestoreResult:
    left_out = value.get("failed_partitions") or []
    message = None
    if left_out:
        message = f"not all of the backup was restored: {', '.join(left_out)} left out, see warnings"
    success = not left_out
    return RestoreResult.model_validate(
        {**value, "success": success, "error_message": message, "execution_time_ms": milliseconds}
    )


def _check_zone(argument: str, value: datetime.datetime | None) -> None:
    if value is not None and value.tzinfo is None:
        raise InvalidArgumentError(
            f"{argument} needs a time zone: write datetime(..., tzinfo=timezone.utc), or call .astimezone() on it"
        )
