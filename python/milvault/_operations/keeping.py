"""Keeping backups: copying them elsewhere, taking others' in, and deleting those that have had their time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from milvault._requests import adopt_request, backup_named, copy_request, prune_request
from milvault.progress import reporting
from milvault.results import BackupMetadata, CopyResult

from . import Operations

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from milvault.enums import LinkPolicy

    from . import ProgressSink


class KeepsBackups(Operations):
    """Copies, adopts and deletes backups."""

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
            request = copy_request(backup_id, collection_name, self.config, to, storage_options, verify_after, timeout)
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
        with reporting(progress, f"Taking in {source}") as sink:
            request = adopt_request(source, collection_name, self.config, storage_options, tags, link, timeout)
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
        (`retention_days`), the newest of a day, week or month, tagged, the newest that is verified, the newest of the
        whole collection, or of a partition since then, its time lies in the future, or a backup that stays builds on
        it. Backups that are being made or read, or whose manifest is damaged, are left alone.

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
