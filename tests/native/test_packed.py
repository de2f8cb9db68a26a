"""Storage version 2, several fields in a file: the rows of real files that are laid out anew are the same rows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pymilvus.grpc_gen import milvus_pb2

from milvault import (
    BackupCorruptedError,
    BackupManager,
    BackupParams,
    BackupStorageType,
    RestoreParams,
    SchemaIncompatibleError,
    VerificationParams,
)
from tests.backup_files import leftovers
from tests.faults.proxy import change, proxy_to
from tests.native.packed import pack_backup, pack_deletes, pack_rows
from tests.native.test_foreign import change_metadata, told
from tests.native.theirs import LAST, as_told
from tests.recipes import RECIPES, create, read_all


@pytest.fixture
def packed(theirs: Path) -> Path:
    """A backup by milvus-backup of a server that writes several fields into a file."""
    pack_backup(theirs)
    return theirs


async def test_the_rows_that_lived_are_exactly_those_of_a_file_a_field(packed: Path, root: Path) -> None:
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(packed) as reader:
            assert as_told(pa.table(reader)) == told()
        with await manager.open_backup(packed, columns=["name"], where="i8 == -127") as reader:
            names = pa.table(reader)["name"].to_pylist()
        assert sorted(names) == sorted(row["name"] for row in told().values() if row["i8"] == -127)
        outcome = await manager.verify_backup(packed)
        assert (outcome.success, outcome.details["rows_checked"]) == (True, 1882)
        outcome = await manager.verify_backup(packed, params=VerificationParams(verification_type="QUICK"))
        assert outcome.success
        with await manager.open_backup(packed, as_of=LAST) as reader:
            assert reader.history == "EXACT"
            assert pa.table(reader).num_rows == 1882


async def test_it_is_taken_in_and_shown_at_earlier_moments(packed: Path, root: Path) -> None:
    async with BackupManager.connect(None, root) as manager:
        [adopted] = await manager.adopt_backup(packed)
        assert (adopted.row_count, adopted.snapshot["timestamp"]) == (1882, LAST)
        with await manager.open_backup(adopted.backup_id) as reader:
            assert as_told(pa.table(reader)) == told()
        # Its files do not say when they were written, so that nothing shows that compaction took no row away.
        with await manager.open_backup(adopted.backup_id, as_of=LAST - 1) as reader:
            assert reader.history == "BEST_EFFORT"
            assert pa.table(reader).num_rows > 0


def _one(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def _without_file(folder: Path) -> str:
    file = _one(folder, "binlogs/insert_log/*/*/*/*/0/*")
    file.unlink()
    return file.name


def _cut(folder: Path) -> str:
    file = _one(folder, "binlogs/insert_log/*/*/*/*/0/*")
    file.write_bytes(file.read_bytes()[:-9])
    return file.name


def _flipped(folder: Path) -> str:
    """In the footer's length: without checksums, a value that still decodes is not known to be wrong."""
    file = _one(folder, "binlogs/insert_log/*/*/*/*/0/*")
    content = bytearray(file.read_bytes())
    content[-6] ^= 0x10
    file.write_bytes(content)
    return file.name


def _of_another_segment(folder: Path) -> str:
    first, *_, last = sorted(folder.glob("binlogs/insert_log/*/*/*/*/0/*"), key=lambda file: file.stat().st_size)
    shutil.copy(first, last)
    return last.parts[-3]


def _unnamed_group(folder: Path) -> str:
    def change_one(collection) -> None:
        segment = collection["partition_backups"][0]["segment_backups"][0]
        segment["binlogs"] = [group for group in segment["binlogs"] if group.get("fieldID", 0) == 0]

    change_metadata(folder, change_one)
    return "vec"


@pytest.mark.parametrize("damage", [_without_file, _cut, _flipped, _of_another_segment, _unnamed_group])
async def test_damage_is_named_and_gives_no_rows(packed: Path, root: Path, damage: Callable[[Path], str]) -> None:
    word = damage(packed)
    async with BackupManager.connect(None, root) as manager:
        outcome = await manager.verify_backup(packed)
        assert not outcome.success
        assert any(word in error for error in outcome.errors), outcome.errors
        with pytest.raises(BackupCorruptedError):
            await manager.adopt_backup(packed)
    assert leftovers(root) == []


async def test_what_came_after_version_2_is_refused_by_name(packed: Path, root: Path) -> None:
    def newer(collection) -> None:
        collection["partition_backups"][0]["segment_backups"][0]["storage_version"] = 3

    change_metadata(packed, newer)
    async with BackupManager.connect(None, root) as manager:
        with pytest.raises(SchemaIncompatibleError, match="storage version 3"):
            await manager.adopt_backup(packed)


@pytest.mark.embedded
async def test_it_is_restored_and_proven(packed: Path, lite, connect) -> None:
    async with connect(lite) as manager:
        restored = await manager.restore_backup(packed, params=RestoreParams(target_collection_name="from_packed"))
        restored.raise_for_error()
    assert (restored.rows_restored, restored.verification_passed) == (1882, True)


@pytest.mark.server
@pytest.mark.parametrize("recipe", sorted(RECIPES))
async def test_a_server_that_writes_it_is_backed_up(server, native, mirror, connect, name, recipe) -> None:
    """The server's word of its segments says version 2, and a copy of its storage is that."""
    create(server.client, name, RECIPES[recipe]())
    server.client.flush(name)
    keys = [key for key in read_all(server.client, name) if str(key).isalnum()]
    server.client.delete(name, ids=keys[:7])
    async with native(default_storage_type=BackupStorageType.LOCAL_FILE) as manager:
        plain = await manager.create_backup(name)
        plain.raise_for_error()
    mirror.refresh()
    number = str(server.client.describe_collection(name)["collection_id"])
    for segment in (mirror.folder / "insert_log" / number).glob("*/*"):
        pack_rows(segment)
    for delta in [path for path in (mirror.folder / "delta_log" / number).rglob("*") if path.is_file()]:
        content = delta.read_bytes()
        delta.unlink()  # the mirror's files are the server's own by another name
        delta.write_bytes(content)
        pack_deletes(delta)

    def version_2(answer: bytes) -> bytes:
        message = milvus_pb2.GetPersistentSegmentInfoResponse.FromString(answer)
        for info in message.infos:
            info.storage_version = 2
        return message.SerializeToString()

    with proxy_to(server.uri) as proxy:
        proxy.add("GetPersistentSegmentInfo", change(version_2), times=None)
        newer = type(server)(proxy.uri, server.kind, server.client)
        for storage_type in (BackupStorageType.MILVUS_NATIVE, BackupStorageType.LOCAL_FILE):
            async with connect(newer, milvus_storage=str(mirror.folder)) as manager:
                made = await manager.create_backup(name, BackupParams(storage_type=storage_type))
                made.raise_for_error()
                assert made.row_count == plain.row_count
                if storage_type is BackupStorageType.LOCAL_FILE:
                    assert made.metadata.digest == plain.metadata.digest
                    continue
                restored = await manager.restore_backup(
                    made.backup_id,
                    params=RestoreParams(target_collection_name=f"{name}_again", via="INSERT", load_after_restore=True),
                )
                restored.raise_for_error()
                assert restored.verification_passed
    assert read_all(server.client, f"{name}_again") == read_all(server.client, name)
