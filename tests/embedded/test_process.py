"""A process that uses Milvault: how it exits, and what it sees of the core's log."""

import logging
import subprocess
import sys

from milvault import BackupManager, BackupRecoveryConfig

LIST_AND_LEAVE = """
import asyncio, sys
from milvault import BackupManager

asyncio.run(BackupManager.connect(None, sys.argv[1]).list_backups())
"""


def test_a_script_that_ends_with_its_job_exits_cleanly(tmp_path):
    # A thread of the core's that is still inside the interpreter when it goes down would abort the process, sometimes.
    for _ in range(15):
        done = subprocess.run(
            [sys.executable, "-c", LIST_AND_LEAVE, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


async def test_what_the_core_warns_of_reaches_logging(tmp_path, caplog):
    config = BackupRecoveryConfig(local_backup_root_path=str(tmp_path), max_retries=1, retry_delay_seconds=0.01)
    with caplog.at_level(logging.WARNING, logger="milvault.core"):
        async with BackupManager.connect("http://127.0.0.1:1", config=config) as manager:
            assert not (await manager.create_backup("articles")).success
    assert [record.levelname for record in caplog.records if record.name == "milvault.core"] == ["WARNING"]
    assert "will be repeated" in caplog.text
