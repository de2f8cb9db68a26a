"""One operation in a process of its own, which may be told to kill itself (SIGKILL) at a moment given in advance.

`python -m tests.faults.child JSON` with operation, uri, root, collection and, where needed, backup, target; and `kill`:
{"phases": [...], "delay": seconds, "needs": pattern, "count": number, "rows": number}: the time that passes between the
first sight of one of the phases (of so many files that match the pattern, and of so many rows done, where named) and
the kill.
Prints a line of JSON: how it ended, or, just before the kill, in which phase it dies.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from milvault import BackupManager, BackupParams, BackupRecoveryConfig, RestoreParams, VerificationParams


def tell(**event: Any) -> None:
    os.write(1, (json.dumps(event) + "\n").encode())


class Killer:
    """A progress sink that ends this process some time after a phase began."""

    def __init__(
        self, phases: list[str], delay: float, needs: str | None = None, count: int = 1, rows: int = 0
    ) -> None:
        self.phases, self.delay, self.phase, self.armed = phases, delay, "waiting", False
        self.needs, self.count, self.rows = needs, count, rows

    def __call__(self, progress: Any) -> None:
        self.phase = progress.phase
        if (
            self.phase in self.phases
            and not self.armed
            and progress.rows_processed >= self.rows
            and self.has_what_it_needs()
        ):
            self.armed = True
            if self.delay:
                threading.Timer(self.delay, self.kill).start()
            else:
                self.kill()

    def has_what_it_needs(self) -> bool:
        return self.needs is None or sum(1 for _ in Path("/").glob(self.needs.lstrip("/"))) >= self.count

    def kill(self) -> None:
        tell(died_in=self.phase)
        os.kill(os.getpid(), signal.SIGKILL)


async def run(job: dict[str, Any]) -> dict[str, Any]:
    kill = job.get("kill")
    killer = Killer(**kill) if kill else None
    config = BackupRecoveryConfig(
        local_backup_root_path=job["root"],
        progress_poll_interval=0.001,
        retry_delay_seconds=0.2,
        default_chunk_size_mb=1,
        auto_verify_after_backup=False,
        milvus_storage=job.get("milvus_storage"),
    )
    manager = BackupManager.connect(job["uri"], config=config)
    collection = job["collection"]
    if job["operation"] == "backup":
        result = await manager.create_backup(collection, BackupParams(**job.get("params", {})), progress=killer)
        return {"success": result.success, "error": repr(result.error), "backup_id": result.backup_id}
    if job["operation"] == "restore":
        params = RestoreParams(**job.get("params", {}))
        restored = await manager.restore_backup(job["backup"], collection, params, progress=killer)
        return {"success": restored.success, "error": repr(restored.error)}
    if job["operation"] == "verify":
        verification = VerificationParams(**job.get("params", {}))
        found = await manager.verify_backup(job["backup"], collection, verification, progress=killer)
        return {"success": found.success, "error": repr(found.errors)}
    if job["operation"] == "copy":
        copied = await manager.copy_backup(job["backup"], collection, to=job["to"], progress=killer)
        return {"success": copied.backup_id == job["backup"], "error": None}
    if killer is not None:
        await manager.list_backups(collection)  # everything is loaded and warm
        killer.phase = "deleting" if job["operation"] == "delete" else "pruning"
        threading.Timer(killer.delay, killer.kill).start()
    if job["operation"] == "prune":
        pruned = await manager.apply_retention_policy(collection, **job["policy"])
        return {"success": not pruned["failed"], "error": repr(pruned["failed"])}
    return {"success": await manager.delete_backup(job["backup"], collection), "error": None}


if __name__ == "__main__":
    # The switch interval bounds how late the kill comes while Python is busy.
    sys.setswitchinterval(0.0005)
    began = time.monotonic()
    try:
        tell(**asyncio.run(run(json.loads(sys.argv[1]))), seconds=time.monotonic() - began)
    except Exception as error:  # noqa: BLE001 - told to the parent
        tell(success=False, error=repr(error), type=type(error).__name__)
    # Timers that are still armed must not outlive the work.
    os._exit(0)
