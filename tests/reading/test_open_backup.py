"""A backup's rows without a server: every type, every consumer of Arrow, and no row of a damaged file."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import milvault
from milvault import (
    BackupCorruptedError,
    BackupInProgressError,
    BackupManager,
    BackupParams,
    BackupRecoveryError,
    InvalidArgumentError,
    PartitionNotFoundError,
)
from tests.backup_files import data_files, leftovers
from tests.recipes import RECIPES, Recipe, create, expected, partition_key, partitioned, plain, simple
from tests.server.test_other_types import everything

pytestmark = pytest.mark.embedded


def spread(row: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A row as `expected` has it: JSON parsed, `$meta` spread out."""
    values = dict(row)
    for entry in recipe.fields:
        if entry.dtype.name == "JSON" and values[entry.name] is not None:
            values[entry.name] = json.loads(values[entry.name])
    values.update(json.loads(values.pop("$meta", None) or "{}"))
    return simple(values)


async def made(lite, connect, name: str, recipe: Recipe, **params: Any) -> Any:
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name, BackupParams(**params))
        backup.raise_for_error()
    return backup


@pytest.fixture
def offline(root) -> Iterator[BackupManager]:
    """A manager with a repository and no server."""
    manager = BackupManager.connect(None, root)
    yield manager
    asyncio.run(manager.close())


@pytest.mark.parametrize("kind", RECIPES)
async def test_rows_are_those_that_were_backed_up(lite, connect, name, root, kind):
    recipe = RECIPES[kind]()
    backup = await made(lite, connect, name, recipe)
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(backup.backup_id) as reader:
            table = pa.table(reader)
            assert pa.schema(reader.schema) == table.schema
    assert reader.row_count == table.num_rows == len(recipe.rows)
    assert {row[recipe.key]: spread(row, recipe) for row in table.to_pylist()} == expected(recipe)


async def test_every_type_reads_as_its_parquet_file_does(lite, connect, name, root):
    backup = await made(lite, connect, name, everything())
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(backup.backup_id) as reader:
            table = pa.table(reader)
    (file,) = data_files(backup.storage_path)
    assert table.equals(pq.read_table(file).cast(table.schema))
    assert table.column_names[0] == "id"
    assert len(table.column_names) == 24


async def test_pyarrow_polars_duckdb_and_pandas_take_the_reader(lite, connect, name, root):
    backup = await made(lite, connect, name, plain(3000))
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(backup.backup_id, columns=["vector", "id"], where="id >= 1000") as reader:
            assert reader.columns == ["vector", "id"]
            assert reader.row_count is None
            ids = list(range(1000, 3000))
            assert pa.table(reader)["id"].to_pylist() == ids
            assert pa.table(reader).column_names == ["vector", "id"]
            assert pl.DataFrame(reader)["id"].to_list() == ids
            with duckdb.connect() as connection:
                assert connection.execute("SELECT sum(id), count(*) FROM reader").fetchall() == [(sum(ids), 2000)]
            assert pd.DataFrame.from_arrow(reader)["id"].tolist() == ids
            assert reader.to_arrow().num_rows == 2000
            assert sum(pa.record_batch(batch).num_rows for batch in reader) == 2000
            assert sum([len(batch) async for batch in reader]) == 2000


async def test_columns_partitions_and_wrong_arguments(lite, connect, name, root):
    backup = await made(lite, connect, name, partitioned(), backup_name="mine")
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup("mine", columns=["id"], partition_names=["autumn", "spring"]) as reader:
            assert reader.row_count == 200
            ids = pa.table(reader)["id"].to_pylist()
            assert sorted(ids) == [number for number in range(300) if number % 3]
        with await manager.open_backup("mine", where="id < 0") as reader:
            assert pa.table(reader).num_rows == 0
        with pytest.raises(PartitionNotFoundError, match="winter") as missing:
            await manager.open_backup("mine", partition_names=["winter"])
        assert missing.value.available_partitions == ["_default", "autumn", "spring"]
        for arguments, words in [
            ({"columns": ["nope"]}, "'nope'.*id, vector"),
            ({"columns": []}, "empty"),
            ({"columns": ["id", "id"]}, "twice"),
            ({"columns": "id"}, "list of names"),
            ({"where": "colour == 1"}, "'colour'"),
            ({"where": "id == "}, "character 7"),
            ({"where": 5}, "filter"),
            ({"as_of": "yesterday"}, "datetime"),
            ({"as_of": datetime.datetime(2026, 11, 21)}, "time zone"),
            ({"as_of": 1_700_000_000_000}, "native backup"),
        ]:
            with pytest.raises(InvalidArgumentError, match=words):
                await manager.open_backup("mine", **arguments)
    assert backup.backup_id in repr(reader)
    assert leftovers(root) == []


async def test_a_partition_key_spreads_rows_that_are_read_together(lite, connect, name, root):
    await made(lite, connect, name, partition_key(), backup_name="mine")
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup("mine", columns=["id"], where="tenant == 'tenant-3'") as reader:
            ids = pa.table(reader)["id"].to_pylist()
        assert sorted(ids) == [number for number in range(300) if number % 7 == 3]
        with pytest.raises(PartitionNotFoundError, match="partition key"):
            await manager.open_backup("mine", partition_names=["_default_0"])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("columns", [None, ["id"]])
async def test_a_damaged_file_gives_no_rows_but_its_name(lite, connect, name, root, columns):
    backup = await made(lite, connect, name, plain(400))
    (file,) = data_files(backup.storage_path)
    flip(file)
    async with BackupManager.connect(None, root) as manager:
        reader = await manager.open_backup(backup.backup_id, columns=columns)
        consumers = [pa.table, pl.DataFrame, lambda reader: list(reader), lambda reader: reader.to_arrow()]
        for consume in consumers:
            with pytest.raises(BackupCorruptedError, match=file.name) as damage:
                consume(reader)
            assert damage.value.failed_files == [f"data/{file.name}"]
            assert damage.value.backup_id == backup.backup_id
            assert damage.value.expected_checksum != damage.value.actual_checksum
        with pytest.raises(BackupCorruptedError, match=file.name):
            [batch async for batch in reader]
        assert reader.error.failed_files == [f"data/{file.name}"]
        reader.close()
        file.unlink()
        reader = await manager.open_backup(backup.backup_id)
        with pytest.raises(BackupCorruptedError, match="missing"), reader:
            pa.table(reader)


def in_many_files(count: int) -> Recipe:
    """A row for each of so many partitions, and so a file for each."""
    base = plain(count)
    return Recipe(base.fields, base.rows, partition_of=lambda row: f"p{row['id']:03d}")


async def test_damage_met_under_way_is_typed_inside_with(lite, connect, name, root):
    backup = await made(lite, connect, name, in_many_files(68))  # more than are proven before a stream is handed over
    last = data_files(backup.storage_path)[-1]
    flip(last)
    async with BackupManager.connect(None, root) as manager:
        reader = await manager.open_backup(backup.backup_id)
        with pytest.raises(OSError, match=f"BackupCorruptedError.*{last.name}"):
            pa.table(reader)
        assert reader.error.failed_files == [f"data/{last.name}"]
        with pytest.raises(BackupCorruptedError, match=last.name), reader:
            pa.table(reader)
        again = await manager.open_backup(backup.backup_id)
        with pytest.raises(BackupCorruptedError, match=last.name):
            again.to_arrow()
        met = []
        with pytest.raises(BackupCorruptedError, match=last.name):
            met.extend(batch.num_rows for batch in again)
        assert sum(met) == 67
        again.close()


async def test_a_backup_that_is_being_read_is_not_deleted(lite, connect, name, root):
    backup = await made(lite, connect, name, plain(50))
    async with BackupManager.connect(None, root) as manager:
        reader = await manager.open_backup(backup.backup_id)
        with pytest.raises(BackupInProgressError):
            await manager.delete_backup(backup.backup_id)
        stream = pa.RecordBatchReader.from_stream(reader)
        reader.close()
        reader.close()
        with pytest.raises(BackupInProgressError):
            await manager.delete_backup(backup.backup_id)  # the stream is still there
        assert stream.read_all().num_rows == 50
        del stream
        with pytest.raises(BackupRecoveryError, match="closed"):
            pa.table(reader)
        for _ in range(100):
            if leftovers(root) == []:
                break
            await asyncio.sleep(0.05)
        assert await manager.delete_backup(backup.backup_id)
        with pytest.raises(BackupRecoveryError, match="no backup"):
            await manager.open_backup(backup.backup_id)


async def test_other_python_threads_run_while_rows_are_made(lite, connect, name, root):
    backup = await made(lite, connect, name, plain(2000))
    ticks = 0
    done = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not done.is_set():
            ticks += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(backup.backup_id) as reader:
            thread.start()
            try:
                for _ in range(20):
                    assert pa.table(reader).num_rows == 2000
            finally:
                done.set()
                thread.join()
    assert ticks > 20


async def test_a_stream_that_nobody_finishes_ends_its_threads(lite, connect, name, root):
    backup = await made(lite, connect, name, plain(5000, dim=64), chunk_size_mb=1)

    def reading() -> int:
        names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
        return names.count("milvault-read")

    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(backup.backup_id) as reader:
            for _ in range(5):
                next(iter(reader))
        for _ in range(100):
            if reading() == 0:
                break
            await asyncio.sleep(0.05)
        assert reading() == 0


def test_a_reader_is_named_by_the_package():
    assert milvault.BackupReader.__name__ == "BackupReader"
