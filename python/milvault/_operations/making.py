"""Making backups, of one collection or of several."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from milvault._arguments import checked_name, checked_params, checked_texts, checked_timeout
from milvault._requests import backup_request
from milvault.enums import BackupState, BackupStorageType
from milvault.errors import BackupCorruptedError, InvalidArgumentError
from milvault.params import BackupParams
from milvault.progress import reporting, reporting_several
from milvault.results import BackupMetadata, BackupResult, BackupSet, VerificationResult

from . import Operations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milvault._seam import Outcome
    from milvault.errors import BackupRecoveryError

    from . import ProgressSink


class MakesBackups(Operations):
    """Backs collections up."""

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
        params = checked_params(params, BackupParams)
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
        with reporting_several(progress) as each:
            return await self._backups(filter, name, params, each, timeout)

    async def _backups(
        self,
        wanted: str | Iterable[str] | None,
        name: str | None,
        params: BackupParams | None,
        progress: object,
        timeout: float | None,
    ) -> BackupSet:
        from milvault._sets import matching, patterns_of

        began = time.perf_counter()
        params = checked_params(params, BackupParams)
        if name is not None:
            checked_name("name", name)
            if params.backup_name not in (None, name):
                raise InvalidArgumentError(f"two names for one set: {name!r} and {params.backup_name!r}; give one")
            params = BackupParams.model_validate({**params.model_dump(exclude_unset=True), "backup_name": name})
        own = "default" if self.connection_manager is None else self.connection_manager.db_name
        if wanted is not None and not isinstance(wanted, str):
            wanted = checked_texts("filter", wanted, "collections")
        patterns = None if wanted is None else patterns_of(wanted, own)
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
        progress: object,
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
