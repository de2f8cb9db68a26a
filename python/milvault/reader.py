"""`BackupReader`: the rows of a backup, without a server, for whatever speaks Arrow."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from .errors import BackupRecoveryError, error_of_kind
from .results import BackupMetadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from types import TracebackType
    from typing import TypeVar

    import pyarrow
    from typing_extensions import Self

    from ._seam import RowBatch, RowReader

    T = TypeVar("T")


class ArrowSchema:
    """The columns of a reader, in Arrow's C interface: `pyarrow.schema(reader.schema)`."""

    def __init__(self, core: RowReader, names: list[str]) -> None:
        self._core = core
        self.names = names

    def __arrow_c_schema__(self) -> object:
        """A capsule with an `ArrowSchema`."""
        return self._core.schema()

    def __repr__(self) -> str:
        return f"ArrowSchema({self.names!r})"


class BackupReader:
    """The rows of one backup, each read afresh from its files. Made by `BackupManager.open_backup`.

    It is an Arrow stream (`__arrow_c_stream__`): pyarrow, polars, DuckDB and pandas take it as it is. Each consumer
    gets all rows from the start, by partition and ascending key. Memory holds a few batches, whatever the backup's
    size. No row is handed over before its file's checksum is proven. Rows are read on the core's own threads.

    While it is open, the backup cannot be deleted: close it, or use it in `with`. Inside `with`, damage that a consumer
    meets under way is raised as `BackupCorruptedError`. Arrow's C interface carries but a text: outside `with` it is
    the consumer's own error, with that text, and `error` holds the typed one.

    Attributes:
        metadata: The backup's manifest.
        columns: Names of the columns, in their order.
        row_count: How many rows there are; `None` where a filter decides.
        schema: The columns in Arrow, for `pyarrow.schema`.
        history: `EXACT` where the rows are those of the moment asked for; `BEST_EFFORT` where compaction may have taken
            some away that were deleted since.
        history_reason: Why.

    Example:
        ```python
        with await manager.open_backup("nightly", columns=["id", "title"], where="year > 2000") as reader:
            table = pyarrow.table(reader)
        ```
    """

    def __init__(self, core: RowReader, description: Mapping[str, Any]) -> None:
        self._core = core
        self.metadata = BackupMetadata.model_validate(description["metadata"])
        self.columns: list[str] = list(description["columns"])
        self.row_count: int | None = description["row_count"]
        self.schema = ArrowSchema(core, self.columns)
        self.history: str = description["history"]
        self.history_reason: str = description["history_reason"]

    @property
    def backup_id(self) -> str:
        """The backup's id."""
        return self.metadata.backup_id

    @property
    def error(self) -> BackupRecoveryError | None:
        """The first error that a stream of this reader met."""
        report = self._core.failure()
        return None if report is None else error_of_kind("open", json.loads(report))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """A capsule with an `ArrowArrayStream` of all rows from the start; `requested_schema` is not heeded.

        Raises:
            BackupCorruptedError: A file is damaged; up to 256 MiB of files are proven before this returns.
            BackupStorageError: A file cannot be read.
        """
        return _typed(self._core.stream)

    def __iter__(self) -> Iterator[RowBatch]:
        """All rows from the start, in batches of a few MiB that `pyarrow.record_batch(batch)` takes.

        Raises:
            BackupCorruptedError: A file is damaged; none of its rows are handed over.
            BackupStorageError: A file cannot be read.
        """
        batches = _typed(self._core.batches)
        while (batch := _typed(lambda: next(batches, None))) is not None:
            yield batch

    async def __aiter__(self) -> AsyncIterator[RowBatch]:
        """As the plain iterator; the event loop stays free."""
        batches = await asyncio.to_thread(_typed, self._core.batches)
        while (batch := await asyncio.to_thread(_typed, lambda: next(batches, None))) is not None:
            yield batch

    def to_arrow(self) -> pyarrow.Table:
        """All rows as one `pyarrow.Table`; needs pyarrow, and memory for all of them.

        Raises:
            BackupCorruptedError: A file is damaged.
            BackupStorageError: A file cannot be read.
        """
        import pyarrow as pa

        with self._raising():
            return pa.table(self)

    def close(self) -> None:
        """Ends reading, so that the backup may be deleted; streams under way go on. Harmless when repeated."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        met = self.error
        self.close()
        _raise_typed(met, error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        met = self.error
        await asyncio.to_thread(self.close)
        _raise_typed(met, error)

    def __repr__(self) -> str:
        rows = "" if self.row_count is None else f", row_count={self.row_count}"
        return f"BackupReader(backup_id={self.backup_id!r}, columns={self.columns!r}{rows})"

    def _raising(self) -> _Raising:
        return _Raising(self)


class _Raising:
    """Turns a consumer's error into the typed one that is behind it."""

    def __init__(self, reader: BackupReader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _raise_typed(self._reader.error, error)


def _raise_typed(met: BackupRecoveryError | None, error: BaseException | None) -> None:
    """Raises what a stream met, where a consumer has failed by it."""
    is_ours = error is None or isinstance(error, BackupRecoveryError)
    if met is not None and not is_ours and met.message in str(error):
        raise met from error


def _typed(work: Callable[[], T]) -> T:
    """What `work` returns; an error of the core becomes ours."""
    from ._core import CoreError

    try:
        return work()
    except CoreError as error:
        raise error_of_kind("open", json.loads(str(error))) from None
    except RuntimeError as error:
        raise BackupRecoveryError(str(error)) from error
