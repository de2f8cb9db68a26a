"""Looking: whether everything is ready for backups, which there are, and whether they are whole."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from milvault._arguments import (
    checked_count,
    checked_name,
    checked_number,
    checked_params,
    checked_texts,
    checked_time,
    checked_timeout,
    checked_word,
)
from milvault._metadata import last_verification
from milvault._requests import backup_named, verify_request
from milvault.enums import BackupOwner, BackupState, BackupType, VerificationType
from milvault.errors import BackupRecoveryError, BackupStorageError, InvalidArgumentError
from milvault.params import VerificationParams
from milvault.progress import reporting
from milvault.results import BackupList, BackupMetadata, Check, CheckResult, VerificationResult, read_metadata

from . import Operations

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from . import ProgressSink


class LooksAtBackups(Operations):
    """Checks what backups need, lists backups, and verifies them."""

    async def check(self, collection_name: str | None = None, *, timeout: float | None = None) -> CheckResult:
        """Looks whether everything is as it has to be, before the first backup.

        Whether the server answers and has the collection, the repository can be written, and `milvus_storage`, where
        it is set, is what this server writes to; whether `milvus_management`, where it is set, can be asked to keep
        files. Writes one small file to the repository and deletes it again, unless it is `read_only`.

        Args:
            collection_name: The collection that has to be there, and whose files are looked for in Milvus's storage.
                Unset: one that has some.
            timeout: Seconds it may take. Unset: the config's `verification_timeout`. What has not answered by then is
                wrong.

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
        state: BackupState | str | None = None,
        backup_type: BackupType | str | None = None,
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
            state: Only those in this state; also as a text, `"VERIFIED"`.
            backup_type: Only those of this type; also as a text.
            tags: Only those that have all of these; a list, also of one.
            created_after: Only those made at this time or later; needs a time zone.
            created_before: Only those made before this time; needs a time zone.
            limit: At most so many.
            offset: Leaves out the first so many.

        Returns:
            A list; its `damaged` has the backups whose manifest cannot be read, whatever the filters by content say.

        Raises:
            InvalidArgumentError: A state or type that there is not, tags that are no list, a time without a zone, a
                limit or offset that is no number or negative.
            BackupStorageError: The repository cannot be read.
        """
        from milvault._listing import read_listing

        state = None if state is None else checked_word("state", state, BackupState)
        backup_type = None if backup_type is None else checked_word("backup_type", backup_type, BackupType)
        wanted_tags = set(checked_texts("tags", tags, "tags"))
        for argument, time in (("created_after", created_after), ("created_before", created_before)):
            if time is not None:
                checked_time(argument, time)
        checked_count("offset", offset)
        if limit is not None:
            checked_count("limit", limit)
        for argument, named in (("collection_name", collection_name), ("database", database)):
            if named is not None:
                checked_name(argument, named)
        if database is None and self.connection_manager is not None:
            database = self.connection_manager.db_name
        request = {"collection_name": collection_name, "database": database}
        outcome = await self._engine.run("list", request, needs_server=False, read=read_listing)
        found: BackupList = outcome.unwrap()
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
        params = checked_params(params, VerificationParams)
        with reporting(progress, f"Verifying {backup_id}") as sink:
            request = verify_request(backup_id, collection_name, params, self.config, timeout)
            deep = params.verification_type is VerificationType.DEEP
            outcome = await self._engine.run("verify", request, needs_server=deep, sink=sink)
        return VerificationResult.model_validate(outcome.unwrap())

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
        if checked_number("interval_days", days) < 0:
            raise InvalidArgumentError(f"interval_days has to be 0 or more, not {days}")
        backups = await self.list_backups(collection_name, database=database)
        now, longest = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=days)
        due = (backup for backup in backups if _is_due(backup, now, longest))
        return BackupList((backup for backup in due if backup.owner is BackupOwner.MILVAULT), backups.damaged)


def _is_due(backup: BackupMetadata, now: datetime.datetime, longest: datetime.timedelta) -> bool:
    verified_at = last_verification(backup, VerificationType.DEEP.value)
    if verified_at is None:
        return True
    age = now - verified_at
    # Another machine's clock may be a little ahead; one that is further off proves nothing.
    return age > longest or age < -datetime.timedelta(days=1)
