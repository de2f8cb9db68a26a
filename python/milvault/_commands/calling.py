"""How a command calls a manager, and how it is stopped: Ctrl-C cancels the call, which cleans up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from milvault.manager import BackupManager

T = TypeVar("T")


def call(manager: BackupManager, method: Callable[[], Awaitable[Any]]) -> Any:
    """What the manager's method returns; the manager is closed then."""

    async def work() -> Any:
        async with manager:
            return await method()

    return run_interruptibly(work())


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work`; the first Ctrl-C (or SIGTERM) cancels it, so that it cleans up, a second one stops at once.

    Raises:
        KeyboardInterrupt: It was interrupted, and has cleaned up.
    """

    async def guarded() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)
        interrupted: list[bool] = []

        def interrupt() -> None:
            if interrupted:
                # A repository survives being left at any moment; the next run sweeps.
                os._exit(130)
            interrupted.append(True)
            print("milvault: interrupted, cleaning up (again to stop at once)", file=sys.stderr, flush=True)
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            # Not in a thread, nor on Windows: there the interpreter's own way has to do.
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, interrupt)
        return await task

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
