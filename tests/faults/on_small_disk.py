"""A backup onto the disk that the parent mounted at `disk`: how it ends, and what is on the disk after it.

`python -m tests.faults.on_small_disk JSON` with uri, disk, collection, and `fill`: whether somebody else fills the disk
while the backup is being written.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from milvault import BackupManager, BackupParams, BackupRecoveryConfig, BackupRecoveryError
from tests.backup_files import leftovers


def fill(disk: Path) -> None:
    """Leaves not a byte."""
    with (disk / "somebody-elses").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):  # no space left
                while True:
                    file.write(b"x" * size)


async def run(job: dict[str, Any]) -> dict[str, Any]:
    disk, filled = Path(job["disk"]), []

    def on_progress(progress: Any) -> None:
        if job["fill"] and progress.phase == "reading" and progress.rows_processed and not filled:
            filled.append(True)
            fill(disk)

    root = disk / "backups"
    config = BackupRecoveryConfig(
        local_backup_root_path=str(root), progress_poll_interval=0.001, retry_delay_seconds=0.1, default_chunk_size_mb=1
    )
    outcome: dict[str, Any]
    async with BackupManager.connect(job["uri"], config=config) as manager:
        try:
            params = BackupParams(compression_enabled=False)
            result = await manager.create_backup(job["collection"], params, progress=on_progress)
            error, outcome = result.error, {"success": result.success, "raised": False}
        except BackupRecoveryError as failure:
            error, outcome = failure, {"success": False, "raised": True}
        outcome |= {"error": error.to_dict() if error else None, "filled": bool(filled)}
        if filled:
            (disk / "somebody-elses").unlink()
        outcome["leftovers"] = leftovers(root)
        outcome["listed"] = len(await manager.list_backups()) if root.exists() else 0
        if job["fill"]:
            again = await manager.create_backup(job["collection"], BackupParams(compression_enabled=False))
            outcome["again"] = again.error_message or "success"
            outcome["leftovers_after_again"] = leftovers(root)
    return outcome


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(sys.argv[1]))), default=str))
