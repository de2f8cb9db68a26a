"""Copies in other repositories: made, gone on with after a kill, and restored from."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time

import pytest

from milvault import BackupAlreadyExistsError, BackupCorruptedError, BackupManager, BackupParams, RestoreParams
from tests.backup_files import data_files, leftovers
from tests.conftest import files_under
from tests.recipes import create, create_large, expected, partitioned, plain, read_all


async def test_a_copy_on_disk_is_the_same_backup_and_is_restored_from(lite, connect, name, root, tmp_path):
    recipe = partitioned()
    create(lite.client, name, recipe)
    elsewhere = tmp_path / "elsewhere"
    async with connect(lite) as manager:
        backup = await manager.create_backup(name, BackupParams(backup_name="mine"))
        copied = await manager.copy_backup("mine", name, to=elsewhere)
        assert (copied.backup_id, copied.already_there) == (backup.backup_id, False)
        assert copied.files == copied.files_copied == len(files_under(elsewhere)) - 1, "all but verification.json"
        assert copied.verification is not None
        assert copied.verification.success
        again = await manager.copy_backup(backup.backup_id, to=elsewhere)
        assert (again.already_there, again.files_copied) == (True, 0)
    here, there = (files_under(folder / name / backup.backup_id) for folder in (root, elsewhere))
    assert {file: body for file, body in here.items() if file != "verification.json"} == {
        file: body for file, body in there.items() if file != "verification.json"
    }
    assert leftovers(elsewhere) == []
    lite.client.drop_collection(name)
    async with connect(lite, root=elsewhere) as manager:
        restored = await manager.restore_backup("mine", name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
    assert read_all(lite.client, name) == expected(recipe)


@pytest.mark.s3
async def test_a_copy_goes_to_s3_and_within_it(lite, connect, name, s3_server, bucket, tmp_path):
    create(lite.client, name, plain(300))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        copied = await manager.copy_backup(backup.backup_id, to=f"s3://{bucket}/one", storage_options=s3_server.options)
        assert not copied.server_side
    async with BackupManager.connect(None, f"s3://{bucket}/one") as remote:
        within = await remote.copy_backup(backup.backup_id, to=f"s3://{bucket}/two")
        assert within.server_side
        back = await remote.copy_backup(backup.backup_id, to=tmp_path / "back")
        assert back.verification.success
    async with BackupManager.connect(None, f"s3://{bucket}/two") as second:
        assert (await second.verify_backup(backup.backup_id)).success
        assert (await second.get_backup(backup.backup_id)).row_count == 300


async def test_a_damaged_backup_is_not_copied(lite, connect, name, root, tmp_path):
    create(lite.client, name, plain(200))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        (file,) = data_files(backup.storage_path)
        body = bytearray(file.read_bytes())
        body[len(body) // 2] ^= 1
        file.write_bytes(body)
        with pytest.raises(BackupCorruptedError) as failure:
            await manager.copy_backup(backup.backup_id, to=tmp_path / "elsewhere")
        assert failure.value.failed_files == [f"data/{file.name}"]
    async with connect(None, root=tmp_path / "elsewhere") as other:
        assert await other.list_backups() == []


async def test_a_name_that_is_taken_elsewhere_is_refused(lite, connect, name, tmp_path):
    create(lite.client, name, plain(20))
    async with connect(lite) as manager, connect(lite, root=tmp_path / "elsewhere") as other:
        await manager.create_backup(name, BackupParams(backup_name="mine"))
        taken = await other.create_backup(name, BackupParams(backup_name="mine"))
        with pytest.raises(BackupAlreadyExistsError) as failure:
            await manager.copy_backup("mine", name, to=tmp_path / "elsewhere")
    assert failure.value.existing_backup_id == taken.backup_id


COPIER = """
import asyncio, sys
from milvault import BackupManager
async def main():
    async with BackupManager.connect(None, sys.argv[1]) as manager:
        await manager.copy_backup(sys.argv[2], to=sys.argv[3], verify_after=False)
asyncio.run(main())
"""


@pytest.mark.faults
async def test_a_copy_that_was_killed_is_gone_on_with(lite_tcp, connect, name, root, tmp_path):
    create_large(lite_tcp.uri, name, 15_000, 512)  # 30 MB in 30 files
    elsewhere = tmp_path / "elsewhere"
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name, BackupParams(chunk_size_mb=1, compression_enabled=False))
    copied_before_the_kill = elsewhere / name / backup.backup_id / "data"
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(COPIER), root, backup.backup_id, elsewhere])
    while child.poll() is None and len([*copied_before_the_kill.glob("*.parquet")]) < 5:
        time.sleep(0.001)
    child.kill()
    child.wait()
    kept = len([*copied_before_the_kill.glob("*.parquet")])
    assert not (elsewhere / name / backup.backup_id / "metadata.json").exists(), "it was done before the kill"
    async with connect(None, root=elsewhere) as other:
        assert await other.list_backups() == []
    async with BackupManager.connect(None, root) as manager:
        copied = await manager.copy_backup(backup.backup_id, to=elsewhere)
        assert copied.verification.success
        assert copied.files_copied <= copied.files - kept
        assert kept >= 5
    assert leftovers(elsewhere) == []


def test_the_command_copies(lite, connect, name, root, tmp_path):
    import asyncio

    create(lite.client, name, plain(20))

    async def backed_up() -> str:
        async with connect(lite) as manager:
            return (await manager.create_backup(name)).backup_id

    backup = asyncio.run(backed_up())
    command = [sys.executable, "-m", "milvault", "--root", root, "copy", backup, "--to", tmp_path / "elsewhere"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["backup_id"] == backup
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "already" in again.stdout
