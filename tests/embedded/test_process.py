"""A process that uses Milvault: how it exits, and what it sees of the core's log."""

import logging
import subprocess
import sys

from milvault import BackupManager

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
    folder = tmp_path / "articles" / "b20261121T063000Z_3f9a1c"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text("{")
    with caplog.at_level(logging.WARNING, logger="milvault.core"):
        async with BackupManager.connect(None, str(tmp_path)) as manager:
            assert len(await manager.list_backups()) == 0
    assert [record.levelname for record in caplog.records if record.name == "milvault.core"] == ["WARNING"]
    assert "b20261121T063000Z_3f9a1c" in caplog.text
