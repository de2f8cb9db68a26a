"""How far a job is: `BackupProgress`, and the places that it can be sent to.

`progress=` of a manager's call takes a function (plain or async) that is given a `BackupProgress` every
`progress_poll_interval` seconds and once at the end, a `ProgressStream` to iterate over, or `True` for a bar.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import functools
import importlib
import sys
from typing import TYPE_CHECKING, Any, ClassVar

from ._model import BYTES_PER_MB, Result, UtcDatetime
from .display import html_bar, human_duration

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator, Mapping

    from typing_extensions import Self

_PHASES_AT_THE_END = ("done", "failed", "canceled")


class BackupProgress(Result):
    """How far a backup, restore or verification is.

    Attributes:
        phase: What it does now: waiting, counting, reading, writing, verifying, inserting, flushing, indexing, loading,
            proving, swapping, cleaning; done, failed or canceled at the end.
        bytes_processed: Bytes of rows (or of files, when verifying) so far.
        total_bytes: Bytes in all, as far as known; 0 while unknown.
        rows_processed: Rows so far.
        total_rows: Rows in all; 0 while unknown.
        percentage: 0 to 100; never goes back, and is 100 only when all is done.
        start_time: When the job began, UTC.
        current_time: When this was measured, UTC.
        estimated_completion_time: When it will be done at the speed of late, UTC; `None` while unknown.
        estimated_remaining_time_seconds: Seconds until then; `None` while unknown.
        current_speed_mbps: Speed of late, in MiB per second.
    """

    _derived: ClassVar[tuple[str, ...]] = ("formatted_eta", "is_complete", "is_failed")
    _shown: ClassVar[tuple[str, ...]] = (
        "phase",
        "percentage",
        "rows_processed",
        "total_rows",
        "bytes_processed",
        "current_speed_mbps",
    )

    phase: str = "waiting"
    bytes_processed: int = 0
    total_bytes: int = 0
    rows_processed: int = 0
    total_rows: int = 0
    percentage: float = 0.0
    start_time: UtcDatetime
    current_time: UtcDatetime
    estimated_completion_time: UtcDatetime | None = None
    estimated_remaining_time_seconds: float | None = None
    current_speed_mbps: float = 0.0

    @property
    def formatted_eta(self) -> str:
        """The time left, for people: `2h 03m`, `1m 05s`, `3s`, `done`, or `unknown`."""
        if self.is_complete:
            return "done"
        if self.estimated_remaining_time_seconds is None:
            return "unknown"
        return human_duration(self.estimated_remaining_time_seconds)

    @property
    def is_complete(self) -> bool:
        """Whether the job ended well."""
        return self.phase == "done"

    @property
    def is_failed(self) -> bool:
        """Whether the job ended otherwise."""
        return self.phase in ("failed", "canceled")


class ProgressTracker:
    """Makes `BackupProgress` of the core's raw counters: speed over the last seconds, time left, no step back."""

    _window_seconds = 10.0
    _settling_seconds = 1.0
    # Ten years: beyond it an estimate says no more than "unknown".
    _longest_seconds = 10 * 365 * 86400.0

    def __init__(self) -> None:
        self._samples: collections.deque[tuple[float, int, float]] = collections.deque()
        self._percentage = 0.0

    def update(self, counters: Mapping[str, Any], now: float, *, outcome: str | None = None) -> BackupProgress:
        """The progress at `now`.

        Args:
            counters: The core's `phase`, `bytes_processed`, `total_bytes`, `rows_processed`, `total_rows`,
                and `started_at` in Unix time.
            now: Unix time in seconds.
            outcome: `done`, `failed` or `canceled` once the job has ended.
        """
        done_bytes, total_bytes = int(counters.get("bytes_processed", 0)), int(counters.get("total_bytes", 0))
        done_rows, total_rows = int(counters.get("rows_processed", 0)), int(counters.get("total_rows", 0))
        # The rows' size is estimated before they are read, and may turn out larger.
        total_bytes = max(total_bytes, done_bytes) if total_bytes else 0
        phase = outcome or str(counters.get("phase", "waiting"))
        if phase == "done" and outcome is None:
            phase = "cleaning"  # the job's own last phase; it is done when its result is there
        fraction = done_rows / total_rows if total_rows > 0 else done_bytes / total_bytes if total_bytes > 0 else 0.0
        if phase == "done":
            self._percentage = 100.0
        else:
            self._percentage = max(self._percentage, min(99.9, 100.0 * fraction))
        speed, remaining = self._pace(now, done_bytes, fraction, phase)
        started_at = float(counters.get("started_at") or now)
        return BackupProgress(
            phase=phase,
            bytes_processed=done_bytes,
            total_bytes=total_bytes,
            rows_processed=done_rows,
            total_rows=total_rows,
            percentage=self._percentage,
            start_time=_utc(min(started_at, now)),
            current_time=_utc(now),
            estimated_completion_time=None if remaining is None else _utc(now + remaining),
            estimated_remaining_time_seconds=remaining,
            current_speed_mbps=speed / BYTES_PER_MB,
        )

    def _pace(self, now: float, done_bytes: int, fraction: float, phase: str) -> tuple[float, float | None]:
        """Bytes per second, and seconds left (`None` while that cannot be told)."""
        samples = self._samples
        if samples and (done_bytes < samples[-1][1] or fraction < samples[-1][2]):
            samples.clear()  # another phase counts anew
        # The time in which nothing moved yet (connecting, counting, loading) says nothing of the speed to come: an
        # estimate needs two readings that have something behind them.
        if len(samples) == 1 and not samples[0][1] and not done_bytes:
            samples.clear()
        samples.append((now, done_bytes, fraction))
        if len(samples) > 2 and not samples[0][1]:
            samples.popleft()
        while len(samples) > 2 and now - samples[0][0] > self._window_seconds:
            samples.popleft()
        first_time, first_bytes, first_fraction = samples[0]
        elapsed = now - first_time
        speed = (done_bytes - first_bytes) / elapsed if elapsed > 0 else 0.0
        if phase in _PHASES_AT_THE_END:
            return speed, 0.0 if phase == "done" else None
        gained = fraction - first_fraction
        # What comes when all rows are counted (writing the manifest, verifying) is not measured by them.
        if not first_bytes or elapsed < self._settling_seconds or gained <= 0 or fraction >= 1.0:
            return speed, None
        remaining = (1.0 - fraction) * elapsed / gained
        return speed, remaining if remaining < self._longest_seconds else None


class ProgressStream:
    """A progress sink to iterate over: every `BackupProgress` of one call, ending with the call.

    Example:
        ```python
        progress = ProgressStream()
        task = asyncio.create_task(manager.create_backup("articles", progress=progress))
        async for update in progress:
            print(f"{update.percentage:.0f} %, {update.formatted_eta} left")
        result = await task
        ```
    """

    def __init__(self) -> None:
        self._waiting: collections.deque[BackupProgress] = collections.deque(maxlen=1024)
        self._wake: asyncio.Event | None = None
        self._ended = False

    def __call__(self, progress: BackupProgress) -> None:
        """Takes one progress; called by the manager."""
        self._waiting.append(progress)
        if self._wake is not None:
            self._wake.set()

    def finish(self) -> None:
        """Ends the iteration; called by the manager."""
        self._ended = True
        if self._wake is not None:
            self._wake.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BackupProgress:
        import asyncio

        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._wake = asyncio.Event()
            await self._wake.wait()
        return self._waiting.popleft()


class ProgressBar:
    """A progress sink that draws a bar with rate and time left on stderr."""

    def __init__(self, title: str) -> None:
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
        except ImportError as error:
            from .errors import InvalidArgumentError

            raise InvalidArgumentError("progress=True draws with rich: pip install 'milvault[cli]'") from error
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True),
            transient=False,
        )
        self._title = title
        self._task = self._bar.add_task(title, total=100.0, detail="")

    def __call__(self, progress: BackupProgress) -> None:
        """Draws one progress."""
        self._bar.start()
        self._bar.update(
            self._task,
            completed=progress.percentage,
            description=f"{self._title}: {progress.phase}",
            detail=_bar_detail(progress),
        )

    def finish(self) -> None:
        """Leaves the bar as it is and gives the terminal back."""
        self._bar.stop()


class NotebookBar:
    """A progress sink that draws a bar with rate and time left below a notebook's cell. Needs no widgets."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown: Any = None

    def __call__(self, progress: BackupProgress) -> None:
        """Draws one progress in place of the last."""
        notebook = importlib.import_module("IPython.display")
        bar = html_bar(f"{self._title}: {progress.phase}", progress.percentage, _bar_detail(progress))
        drawn = notebook.HTML(bar)
        if self._shown is None:
            self._shown = notebook.display(drawn, display_id=True)
        else:
            self._shown.update(drawn)


def _bar_detail(progress: BackupProgress) -> str:
    parts = [f"{progress.rows_processed:,} rows"]
    if progress.current_speed_mbps > 0 and not progress.is_complete:
        parts.append(f"{progress.current_speed_mbps:.1f} MiB/s")
    if progress.estimated_remaining_time_seconds is not None and not progress.is_complete:
        parts.append(f"{progress.formatted_eta} left")
    return ", ".join(parts)


def _in_notebook() -> bool:
    """Whether this process runs a notebook's cells."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"


@contextlib.contextmanager
def reporting(progress: object, title: str) -> Iterator[Callable[[BackupProgress], Any] | None]:
    """The sink that a call's `progress=` names (a bar for `True`), told at the end that this was all.

    Raises:
        InvalidArgumentError: It cannot be called, or a bar is wanted and rich is not installed.
    """
    sink = _sink_of(progress, title)
    try:
        yield sink
    finally:
        # However the call ends: who iterates over a stream must not wait for ever.
        finish = getattr(sink, "finish", None)
        if callable(finish):
            finish()


@contextlib.contextmanager
def reporting_several(progress: object) -> Iterator[object]:
    """What each of several calls is given as its `progress=`. The sink is told once that this was all.

    With `True` each has a bar of its own.

    Raises:
        InvalidArgumentError: As for `reporting`.
    """
    if progress is True:
        yield True
        return
    with reporting(progress, "") as sink:
        # Wrapped, it has no `finish` that the end of one call would call.
        yield None if sink is None else functools.partial(sink)


def _sink_of(progress: object, title: str) -> Callable[[BackupProgress], Any] | None:
    if progress is None or progress is False:
        return None
    if progress is True:
        return NotebookBar(title) if _in_notebook() else ProgressBar(title)
    if callable(progress):
        return progress
    from .errors import InvalidArgumentError

    raise InvalidArgumentError(
        f"progress takes a function, a ProgressStream, or True for a bar, not {type(progress).__name__}"
    )


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
