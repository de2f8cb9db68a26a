"""A process that backs one collection up, or applies a retention policy to it, again and again until a given time.

`python -m tests.faults.pruner JSON` with work ("backup" or "prune"), uri, root, collection and seconds. Prints a line
of JSON: how often it was done and refused, and what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from milvault import BackupInProgressError, BackupManager, BackupRecoveryConfig


async def work(job: dict[str, Any]) -> dict[str, Any]:
    config = BackupRecoveryConfig(default_chunk_size_mb=1, retry_delay_seconds=0.2, progress_poll_interval=0.5)
    uri = job["uri"] if job["work"] == "backup" else None
    done, refused, deleted = 0, 0, []
    wrong: list[str] = []
    until = time.monotonic() + job["seconds"]
    async with BackupManager.connect(uri, job["root"], config=config) as manager:
        while time.monotonic() < until:
            try:
                if job["work"] == "backup":
                    result = await manager.create_backup(job["collection"])
                    if not result.success:
                        wrong.append(repr(result.error))
                else:
                    pruned = await manager.apply_retention_policy(
                        job["collection"], retention_count=3, retention_days=0, min_backups_to_keep=2
                    )
                    deleted += pruned["deleted_backup_ids"]
                    wrong += pruned["failed"].values()
                done += 1
            except BackupInProgressError:
                refused += 1
                await asyncio.sleep(0.02)
            except Exception as error:  # noqa: BLE001 - told to the parent
                wrong.append(repr(error))
    return {"done": done, "refused": refused, "deleted": deleted, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(work(json.loads(sys.argv[1])))))
