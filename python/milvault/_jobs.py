"""Waiting for a job of the core from asyncio: the loop stays free, canceling cleans up, progress reaches its sink."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from ._seam import Outcome, read_outcome
from .errors import BackupRecoveryError
from .progress import BackupProgress, ProgressTracker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._seam import Job, Starts

logger = logging.getLogger("milvault")
core_logger = logging.getLogger("milvault.core")

LOG_INTERVAL_SECONDS = 0.25
"""How soon what the core logs is seen."""

CANCEL_GRACE_SECONDS = 10.0
"""How long a canceled job may take to clean up. What it leaves behind then, the next run sweeps."""


async def run_job(
    session: Starts,
    operation: str,
    request: Mapping[str, Any],
    *,
    sink: Callable[[BackupProgress], Any] | None = None,
    poll_interval: float = 2.0,
    read: Callable[[str, str], Outcome] = read_outcome,
) -> Outcome:
    """Runs one operation to its end.

    Args:
        session: Where to run it.
        operation: The core's name of it.
        request: Its arguments, JSON-ready.
        sink: Takes progress every `poll_interval` seconds, and once at the end.
        poll_interval: Seconds.
        read: Makes the outcome of the operation's name and the core's JSON.

    Returns:
        Its value or its error.

    Raises:
        BackupRecoveryError: The session cannot be used: it is closed, or this is a forked child.
        asyncio.CancelledError: This task was canceled; the job has cleaned up, or had 10 seconds to.
    """
    loop = asyncio.get_running_loop()
    try:
        job = session.start(operation, json.dumps(request))
    except RuntimeError as error:
        raise BackupRecoveryError(str(error)) from error
    ended, given_up = asyncio.Event(), threading.Event()

    def watch() -> None:
        # A thread of Python's own, which the interpreter waits for at exit: none of Rust's ever enters it.
        while not job.wait(LOG_INTERVAL_SECONDS) and not given_up.is_set():
            forward_log()
        forward_log()
        try:
            loop.call_soon_threadsafe(ended.set)
        except RuntimeError:
            logger.debug("%s ended after its event loop was closed", operation)

    threading.Thread(target=watch, name=f"milvault-{operation}").start()
    reporter = _Reporter(job, sink) if sink is not None else None
    polling = asyncio.create_task(reporter.poll(poll_interval)) if reporter is not None else None
    last_phase = "failed"
    try:
        await ended.wait()
        outcome = read(operation, job.result())
        last_phase = "done" if outcome.error is None else "failed"
        return outcome
    except asyncio.CancelledError:
        last_phase = "canceled"
        job.cancel()
        await _wait_out(ended, CANCEL_GRACE_SECONDS)
        if not ended.is_set():
            given_up.set()
            logger.warning(
                "the canceled %s did not end within %.0f s; the next run cleans up", operation, CANCEL_GRACE_SECONDS
            )
        raise
    finally:
        if polling is not None:
            polling.cancel()
        if reporter is not None:
            await reporter.finish(last_phase)


def forward_log() -> None:
    """Hands what the core has logged to `logging`, logger `milvault.core`."""
    core = sys.modules.get("milvault._core")
    if core is not None:
        for level, text in core.drain_log():
            core_logger.log(level, "%s", text)


async def _wait_out(ended: asyncio.Event, seconds: float) -> None:
    """Waits for the event or the time, also when canceled again meanwhile."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    waiting = asyncio.ensure_future(ended.wait())
    while not ended.is_set() and (left := deadline - loop.time()) > 0:
        try:
            await asyncio.wait({waiting}, timeout=left)
        except asyncio.CancelledError:
            continue
    waiting.cancel()


class _Reporter:
    """Tells a sink how far a job is. A sink that raises is told no more, and the job goes on."""

    def __init__(self, job: Job, sink: Callable[[BackupProgress], Any]) -> None:
        self._job = job
        self._sink = sink
        self._tracker = ProgressTracker()
        self._broken = False

    async def poll(self, interval: float) -> None:
        """Reports now and every `interval` seconds, until canceled."""
        while True:
            await self._report(None)
            await asyncio.sleep(interval)

    async def finish(self, last_phase: str) -> None:
        """Reports once more, how it ended."""
        await self._report(last_phase)

    async def _report(self, last_phase: str | None) -> None:
        if self._broken:
            return
        try:
            progress = self._tracker.update(json.loads(self._job.progress()), time.time(), outcome=last_phase)
            answer = self._sink(progress)
            if inspect.isawaitable(answer):
                await answer
        except Exception:
            self._broken = True
            logger.exception("the progress callback failed; it is not called again, and the work goes on")
