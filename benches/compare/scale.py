"""Ten thousand backups in one repository: how long listing them takes, and planning a retention policy.

`python -m benches.compare.scale [COUNT]`; `make bench` runs it with `BENCH="--parts scale"`. The manifests are made by a
generator, as large as real ones, most with a `verification.json`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from milvault import BackupManager
from tests.manifests import fill

COUNT, COLLECTIONS, ROUNDS = 10_000, ("articles", "films", "images", "songs"), 5


def processor_seconds() -> float:
    """What this process has computed so far, on all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def timed(what: str, work: Callable[[], Awaitable[object]]) -> str:
    """A row of the table: the median of the rounds after a first one, which fills caches."""
    await work()
    seconds, computed = [], []
    for _ in range(ROUNDS):
        began, before = time.perf_counter(), processor_seconds()
        await work()
        seconds.append(time.perf_counter() - began)
        computed.append(processor_seconds() - before)
    return f"| {what} | {statistics.median(seconds):.2f} | {statistics.median(computed):.2f} |"


async def measure(count: int) -> str:
    """The table, in Markdown."""
    root = Path(tempfile.mkdtemp(prefix="milvault-scale-"))
    try:
        fill(root, count, COLLECTIONS, dt.datetime.now(dt.timezone.utc))
        async with BackupManager.connect(None, root) as manager:
            rows = [
                await timed("list all", manager.list_backups),
                await timed("list one collection of four", lambda: manager.list_backups(COLLECTIONS[0])),
                await timed(
                    "retention, dry run, all", lambda: manager.apply_retention_policy(dry_run=True, retention_weekly=8)
                ),
            ]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return "\n".join([f"| of {count:,} backups on a local disk | time, s | processor, s |", "|---|---:|---:|", *rows])


if __name__ == "__main__":
    print(asyncio.run(measure(int(sys.argv[1]) if sys.argv[1:] else COUNT)))
