"""Parquet backups whose rows come from Milvus's own files: of one moment, in order, with nothing loaded."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from milvault import (
    BackupError,
    BackupParams,
    BackupStorageError,
    BackupStorageType,
    BackupType,
    InsufficientStorageError,
    InvalidArgumentError,
    RestoreParams,
)
from tests.backup_files import leftovers
from tests.native.test_making import collection_number
from tests.native.test_rows import change
from tests.recipes import awkward_strings, create, create_large, partition_key, partitioned, plain, read_all, vector_of

pytestmark = [pytest.mark.server]

PARQUET = {"default_storage_type": BackupStorageType.LOCAL_FILE}


def is_loaded(milvus, name: str) -> bool:
    return str(milvus.client.get_load_state(name)["state"]) == "Loaded"


async def test_a_collection_that_is_not_loaded_stays_so(server, native, name, root: Path):
    create(server.client, name, plain(700))
    server.client.delete(name, ids=list(range(0, 700, 5)))
    living = read_all(server.client, name)
    server.client.release_collection(name)
    async with native(**PARQUET) as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        assert not is_loaded(server, name)
        assert made.metadata.storage_type is BackupStorageType.LOCAL_FILE
        assert (made.row_count, made.metadata.snapshot["kind"], made.warnings) == (len(living), "snapshot", [])
        queried = await manager.create_backup(name, BackupParams(source="query"))
        assert queried.metadata.digest == made.metadata.digest
        assert "timestamp" in made.metadata.snapshot
        assert "timestamp" not in queried.metadata.snapshot
        restored = await manager.restore_backup(made.backup_id, name, RestoreParams(drop_existing=True))
        restored.raise_for_error()
    server.client.load_collection(name)
    assert read_all(server.client, name) == living
    assert leftovers(root) == []


@pytest.mark.parametrize("recipe", [partitioned, partition_key, awkward_strings])
async def test_rows_are_in_the_order_of_their_keys(recipe, server, native, name):
    collection = recipe()
    create(server.client, name, collection)
    if recipe is not awkward_strings:  # pymilvus cannot say all of them in a filter
        change(server, name, collection, sorted(read_all(server.client, name)))
    async with native(**PARQUET) as manager:
        made = await manager.create_backup(name, BackupParams(source="binlogs", chunk_size_mb=1))
    made.raise_for_error()
    found = []
    for file in sorted(Path(made.storage_path).glob("data/*.parquet")):
        column = pq.read_table(file, columns=[collection.key])[collection.key].to_pylist()
        ordered = sorted(column, key=lambda text: text.encode()) if isinstance(column[0], str) else sorted(column)
        assert column == ordered
        found += column
    assert sorted(found) == sorted(read_all(server.client, name))


async def test_more_rows_than_are_sorted_in_memory_go_through_a_file_without_a_name(
    server, native, name, tmp_path, monkeypatch
):
    create_large(server.uri, name, 60_000, 384)  # 92 MB
    async with native(**PARQUET) as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        queried = await manager.create_backup(name, BackupParams(source="query"))
        assert (made.row_count, made.metadata.digest) == (60_000, queried.metadata.digest)
        monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
        refused = await manager.create_backup(name, BackupParams(source="binlogs"))
        assert isinstance(refused.error, InsufficientStorageError)
        assert str(tmp_path / "none") in refused.error_message
        assert 'source="query"' in refused.error_message
        assert len(await manager.list_backups(name)) == 2


async def test_keys_that_occur_twice_are_named_and_may_be_collapsed(server, native, name):
    create(server.client, name, plain(300))
    server.client.insert(name, [{"id": key, "vector": vector_of(1)} for key in (7, 250)])
    async with native(**PARQUET) as manager:
        refused = await manager.create_backup(name)
        assert isinstance(refused.error, BackupError)
        assert "7 (2 times), 250 (2 times)" in refused.error_message
        for source, from_files in [("auto", True), ("query", False)]:
            collapsed = await manager.create_backup(name, BackupParams(duplicates="collapse", source=source))
            assert collapsed.row_count == 300
            assert ("timestamp" in collapsed.metadata.snapshot) == from_files


async def test_only_the_partitions_that_are_wanted_are_read(server, native, name):
    create(server.client, name, partitioned(500))
    living = read_all(server.client, name, partitions=["spring"])
    params = BackupParams(backup_type=BackupType.PARTITION, partition_names=["spring"], source="binlogs")
    async with native(**PARQUET) as manager:
        made = await manager.create_backup(name, params)
        made.raise_for_error()
    assert (made.row_count, made.metadata.partition_names) == (len(living), ["spring"])


async def test_an_empty_collection_is_its_schema(server, native, name):
    create(server.client, name, plain(0))
    async with native(**PARQUET) as manager:
        made = await manager.create_backup(name, BackupParams(source="binlogs"))
    made.raise_for_error()
    assert made.row_count == 0
    assert "no rows" in made.warnings[0]


async def test_milvus_lite_and_wrong_settings(server, lite, native, connect, name, tmp_path):
    create(lite.client, name, plain(40))
    create(server.client, name, plain(40))
    server.client.flush(name)
    (tmp_path / "insert_log").mkdir()
    async with connect(lite, milvus_storage=str(tmp_path)) as manager:
        made = await manager.create_backup(name)  # Lite has no such files
        assert (made.row_count, "timestamp" in made.metadata.snapshot) == (40, False)
        with pytest.raises(InvalidArgumentError, match="Milvus Lite"):
            await manager.create_backup(name, BackupParams(source="binlogs"))
    async with connect(server) as manager:
        with pytest.raises(InvalidArgumentError, match="milvus_storage"):
            await manager.create_backup(name, BackupParams(source="binlogs"))
    async with native(**PARQUET, milvus_storage=str(tmp_path)) as manager:
        with pytest.raises(BackupStorageError, match="milvault check"):
            await manager.create_backup(name)
        assert (await manager.create_backup(name, BackupParams(source="query"))).row_count == 40
        assert len(await manager.list_backups(name)) == 2  # Lite's, and the last one


async def test_a_file_that_is_missing_or_damaged_is_named_and_nothing_is_left(server, native, mirror, name, root: Path):
    create(server.client, name, plain(400))
    server.client.flush(name)
    mirror.refresh()
    files = mirror.files(collection_number(server, name))
    content = files[-1].read_bytes()
    async with native(**PARQUET, milvus_storage=str(mirror.folder)) as manager:
        (await manager.create_backup(name)).raise_for_error()
        for damage in (None, content[: len(content) // 2]):
            files[-1].unlink()
            if damage is not None:
                files[-1].write_bytes(damage)
            refused = await manager.create_backup(name)
            assert isinstance(refused.error, BackupError)
            assert "was not backed up" in refused.error_message
            assert 'source="query"' in refused.error_message
            assert files[-1].parent.name in refused.error_message
            files[-1].unlink(missing_ok=True)
            files[-1].write_bytes(content)
        assert len(await manager.list_backups(name)) == 1
    assert leftovers(root) == []


async def test_whoever_stops_one_finds_none_of_it(server, native, name, root: Path):
    create_large(server.uri, name, 30_000, 128)
    async with native(**PARQUET) as manager:
        task = asyncio.ensure_future(manager.create_backup(name, BackupParams(source="binlogs")))
        while not leftovers(root):
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await manager.list_backups(name) == []
    assert leftovers(root) == []


async def test_rows_are_of_one_moment_while_others_write(calm, calm_native, name):
    """A key is deleted, and another one written in its place, in this order: at any moment at most one is away."""
    create(calm.client, name, plain(1000))
    stopped = threading.Event()

    def write() -> None:
        for key in itertools.count(1000):
            if stopped.is_set():
                return
            calm.client.delete(name, ids=[key - 1000])
            calm.client.insert(name, [{"id": key, "vector": vector_of(key)}])

    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        try:
            async with calm_native(**PARQUET) as manager:
                for _ in range(3):
                    made = await manager.create_backup(name, BackupParams(source="binlogs"))
                    made.raise_for_error()
                    keys = []
                    for file in sorted(Path(made.storage_path).glob("data/*.parquet")):
                        keys += pq.read_table(file, columns=["id"])["id"].to_pylist()
                    assert len(keys) in (999, 1000)
                    assert keys == list(range(keys[0], keys[0] + len(keys)))
                    assert keys[0] > 0
        finally:
            stopped.set()
        writer.result()
