"""Backs a collection up every night, with nothing but the standard library.

    MILVAULT_URI=http://localhost:19530 python examples/schedule.py articles

One manager serves every night's `asyncio.run`. A night that fails is told and does not stop the next one.
Add `--now` to make one backup at once and leave.
"""

from __future__ import annotations

import asyncio
import datetime
import sys
import time

from milvault import BackupManager, BackupParams, BackupRecoveryError, ConnectionManager

HOUR = 2  # local time


def seconds_until(hour: int, now: datetime.datetime) -> float:
    """Seconds from `now` to the next time that a clock shows `hour`."""
    then = now.replace(hour=hour, minute=0, second=0, microsecond=0)
    if then <= now:
        then += datetime.timedelta(days=1)
    return (then - now).total_seconds()


async def back_up(manager: BackupManager, collection_name: str) -> bool:
    """Makes one night's backup. True if it is there and verified."""
    today = datetime.datetime.now(datetime.timezone.utc)
    params = BackupParams(backup_name=f"daily_{today:%Y%m%d_%H%M%S}", tags=["daily"])
    try:
        result = await manager.create_backup(collection_name, params)
    except BackupRecoveryError as error:  # wrong before it began: no such collection, no space, already running
        print(f"no backup of {collection_name}: {error}")
        return False
    if not result.success:  # went wrong while it ran: server gone, time over
        print(f"no backup of {collection_name}: {result.error_message}")
        return False
    print(f"{result.backup_name}: {result.row_count:,} rows, {result.size_mb:.1f} MiB")
    return True


def main() -> int:
    """Runs for ever, or once with `--now`."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--now"]
    if len(arguments) != 1:
        print(__doc__)
        return 2
    manager = BackupManager(connection_manager=ConnectionManager())
    if "--now" in sys.argv:
        return 0 if asyncio.run(back_up(manager, arguments[0])) else 1
    while True:
        time.sleep(seconds_until(HOUR, datetime.datetime.now().astimezone()))
        asyncio.run(back_up(manager, arguments[0]))


if __name__ == "__main__":
    sys.exit(main())
