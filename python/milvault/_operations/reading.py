"""Reading a backup's rows without a server: as a stream, or into a file."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from milvault._requests import export_request, open_request
from milvault.progress import reporting
from milvault.results import ExportResult

from . import Operations

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from milvault._moments import Moment
    from milvault.reader import BackupReader

    from . import ProgressSink


class ReadsBackups(Operations):
    """Opens and exports backups."""

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
        from milvault.reader import BackupReader

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
