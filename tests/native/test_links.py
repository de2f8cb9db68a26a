"""Native backups that share files with Milvus's storage, where that is allowed and both are on one file system."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from milvault import BackupManager, BackupParams, InvalidArgumentError, LinkPolicy
from tests.conftest import files_under
from tests.native.test_rows import change
from tests.native.theirs import as_told, expected
from tests.recipes import create, plain, read_all

ELSEWHERE = Path("/dev/shm")  # a file system of its own, on Linux
MILVUS_FILES = ("insert_log", "delta_log")


def shared(backup: Path, storage: Path) -> tuple[int, int]:
    """How many of a backup's binlogs are the very files of a storage, and how many there are."""
    inodes = {(path.stat().st_dev, path.stat().st_ino) for path in storage.rglob("*") if path.is_file()}
    files = [path for path in (backup / "binlogs").rglob("*") if path.is_file()]
    return sum((path.stat().st_dev, path.stat().st_ino) in inodes for path in files), len(files)


@pytest.mark.server
async def test_linked_backups_of_a_real_server_are_whole_and_outlive_its_files(
    calm, calm_server, calm_native, name, root: Path
):
    recipe = plain(400)
    create(calm.client, name, recipe)
    change(calm, name, recipe, sorted(read_all(calm.client, name)))
    living = read_all(calm.client, name)
    storage = calm_server.data
    async with calm_native() as manager:
        found = {}
        for link in LinkPolicy:
            made = await manager.create_backup(name, BackupParams(link=link))
            made.raise_for_error()
            assert made.verification.success
            found[link] = shared(Path(made.storage_path), storage)
        assert found[LinkPolicy.NEVER][0] == 0
        assert found[LinkPolicy.HARDLINK][0] == found[LinkPolicy.HARDLINK][1] > 4
        assert found[LinkPolicy.REFLINK][0] == 0  # files of their own, whoever has their blocks
        linked = Path(made.storage_path)
        before = files_under(linked)
        # Deleting a linked backup takes nothing from the server.
        again = await manager.create_backup(name, BackupParams(link="HARDLINK"))
        kept = {part: files_under(storage / part) for part in MILVUS_FILES}
        await manager.delete_backup(again.backup_id)
        assert {part: files_under(storage / part) for part in MILVUS_FILES} == kept
        # Nor does what the server takes away take anything from a backup.
        number = calm.client.describe_collection(name)["collection_id"]
        assert any((storage / part / str(number)).exists() for part in MILVUS_FILES)
        calm.client.drop_collection(name)
        for part in MILVUS_FILES:
            shutil.rmtree(storage / part / str(number), ignore_errors=True)
        assert files_under(linked) == before
        assert (await manager.verify_backup(made.backup_id)).success
        (await manager.restore_backup(made.backup_id)).raise_for_error()
        calm.client.load_collection(name)
    assert read_all(calm.client, name) == living


async def test_what_is_taken_in_may_be_linked_and_what_cannot_be_is_copied(
    theirs: Path, root: Path, bucket: str
) -> None:
    async with BackupManager.connect(None, root) as manager:
        (backup,) = await manager.adopt_backup(theirs, link=LinkPolicy.HARDLINK)
        linked, files = shared(Path(backup.storage_path), theirs)
        assert linked == files == 100
        with await manager.open_backup(backup.backup_id) as reader:
            rows = as_told(pa.table(reader))
        assert rows.keys() == expected().keys()
        with pytest.raises(InvalidArgumentError, match="REFLINK"):
            await manager.adopt_backup(theirs, link="SYMLINK")
    async with BackupManager.connect(None, f"s3://{bucket}/backups") as manager:
        (backup,) = await manager.adopt_backup(theirs, link=LinkPolicy.HARDLINK)
        assert backup.is_verified


@pytest.mark.skipif(
    not os.access(ELSEWHERE, os.W_OK) or ELSEWHERE.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev,
    reason="there is no other file system at hand",
)
@pytest.mark.parametrize("link", ["HARDLINK", "REFLINK"])
async def test_between_two_file_systems_files_are_copied(link: str, theirs: Path, name: str) -> None:
    root = ELSEWHERE / name
    try:
        async with BackupManager.connect(None, root) as manager:
            (backup,) = await manager.adopt_backup(theirs, link=link)
            assert (backup.row_count, shared(Path(backup.storage_path), theirs)[0]) == (1882, 0)
    finally:
        shutil.rmtree(root, ignore_errors=True)
