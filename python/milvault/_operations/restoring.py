"""Restoring: a backup becomes a collection again."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from milvault._arguments import checked_params
from milvault._requests import restore_request
from milvault.params import RestoreParams
from milvault.progress import reporting
from milvault.results import RestoreResult

from . import Operations

if TYPE_CHECKING:
    from . import ProgressSink


class RestoresBackups(Operations):
    """Makes collections of backups."""

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
        params = checked_params(params, RestoreParams)
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


def _finished_restore(value: dict[str, Any], milliseconds: float) -> RestoreResult:
    left_out = value.get("failed_partitions") or []
    message = None
    if left_out:
        message = f"not all of the backup was restored: {', '.join(left_out)} left out, see warnings"
    success = not left_out
    return RestoreResult.model_validate(
        {**value, "success": success, "error_message": message, "execution_time_ms": milliseconds}
    )
