"""The rows of native backups: equal, by digest, to a scan's, to a Parquet backup's and to what is restored of them."""

from __future__ import annotations

import random
import time
from typing import Any

import pyarrow as pa
import pytest
from pymilvus import DataType, FieldSchema

from milvault import BackupParams, BackupResult, BackupStorageType, RestoreParams
from tests.conftest import Milvus, client_of
from tests.native.conftest import Native
from tests.recipes import RECIPES, Recipe, Row, create, fill, key_field, read_all, simple, vector_of

pytestmark = [pytest.mark.server]


def _binary() -> Recipe:
    fields = [
        key_field(),
        FieldSchema("vector", DataType.BINARY_VECTOR, dim=24),
    ]
    rows = [{"id": key, "vector": bytes([key % 256, key // 256, 7])} for key in range(300)]
    return Recipe(fields, rows, indexes={"vector": {"index_type": "BIN_FLAT", "metric_type": "HAMMING"}})


def _auto_id() -> Recipe:
    fields = [key_field(auto_id=True), FieldSchema("vector", DataType.FLOAT_VECTOR, dim=8)]
    return Recipe(fields, [{"vector": vector_of(at)} for at in range(300)])


def digest_of(result: BackupResult) -> tuple[int, int]:
    """How many rows a Parquet backup has, and the sum of their digests."""
    parts = result.metadata.digest["partitions"].values()
    return sum(part["rows"] for part in parts), sum(int(part["digest"], 16) for part in parts) % 2**128


def change(server: Milvus, name: str, recipe: Recipe, keys: list[Any]) -> None:
    """Deletes some rows, and writes others again where their keys can be given."""
    server.client.delete(name, ids=keys[::7])
    if keys and not next(field for field in recipe.fields if field.is_primary).auto_id:
        again = {row[recipe.key]: row for row in recipe.rows}
        for key in keys[3:30:4]:
            row = again[key] | {recipe.fields[-1].name: recipe.rows[0][recipe.fields[-1].name]}
            partition = recipe.partition_of(row) if recipe.partition_of else ""
            server.client.upsert(name, [row], partition_name=partition or None)


@pytest.mark.parametrize("kind", [*RECIPES, "binary_vectors", "auto_id"])
async def test_every_way_to_the_rows_gives_the_same_ones(kind: str, server, native, connect, lite, name):
    recipe = {**RECIPES, "binary_vectors": _binary, "auto_id": _auto_id}[kind]()
    make_collection(server, name, recipe)
    keys = sorted(read_all(server.client, name))
    change(server, name, recipe, keys)
    living = read_all(server.client, name)
    server.client.create_alias(name, f"{name}_alias")
    async with native() as manager:
        copied = await manager.create_backup(name)
        copied.raise_for_error()
        parquet = BackupParams(storage_type=BackupStorageType.LOCAL_FILE, source="query")
        scanned = await manager.create_backup(name, parquet)
        scanned.raise_for_error()
        filed = await manager.create_backup(name, parquet.model_copy(update={"source": "binlogs"}))
        filed.raise_for_error()
        assert filed.metadata.snapshot["kind"] == "snapshot"
        rows, digest = digest_of(scanned)
        assert digest_of(filed) == (rows, digest)
        assert (copied.row_count, rows) == (len(living), len(living))
        with (
            await manager.open_backup(copied.backup_id) as ours,
            await manager.open_backup(scanned.backup_id) as theirs,
            await manager.open_backup(filed.backup_id) as sorted_ones,
        ):
            scan = pa.table(theirs)
            assert pa.table(sorted_ones).equals(scan)  # in the same order
            table = pa.table(ours).sort_by(recipe.key)
            assert table.schema == scan.schema
            assert simple(table.to_pylist()) == simple(scan.sort_by(recipe.key).to_pylist())
            assert (ours.row_count, ours.history) == (len(living), "EXACT")
        params = RestoreParams(target_collection_name=f"{name}_back", load_after_restore=True)
        restored = await manager.restore_backup(copied.backup_id, params=params)
        restored.raise_for_error()
        details = restored.verification_details
        assert (restored.rows_restored, restored.verification_passed) == (len(living), True)
        assert int(details["digest"], 16) == digest
        assert details["digest"] == details["expected_digest"]
    assert read_all(server.client, f"{name}_back") == living
    if kind == "binary_vectors":
        return  # which Milvus Lite does not hold
    async with connect(lite) as manager:
        restored = await manager.restore_backup(copied.backup_id, params=RestoreParams(target_collection_name=name))
        restored.raise_for_error()
        assert int(restored.verification_details["digest"], 16) == digest


def make_collection(server: Milvus, name: str, recipe: Recipe) -> None:
    """As `create`, for collections without a float vector too."""
    if any(field.dtype == DataType.FLOAT_VECTOR for field in recipe.fields):
        create(server.client, name, recipe)
        return
    from pymilvus import CollectionSchema

    server.client.create_collection(name, schema=CollectionSchema(list(recipe.fields)), num_shards=1)
    fill(server.client, name, recipe, recipe.rows)
    params = server.client.prepare_index_params()
    for field_name, index in recipe.indexes.items():
        params.add_index(field_name=field_name, **index)
    server.client.create_index(name, params)
    server.client.load_collection(name)


async def test_of_a_named_database_and_of_some_partitions(server, native, name):
    server.client.create_database(name)
    there = client_of(server.uri, name)
    try:
        create(there, "films", RECIPES["partitioned"]())
        living = read_all(there, "films", partitions=["spring"])
        async with native() as manager:
            made = await manager.create_backups(
                f"{name}.films", params=BackupParams(backup_type="PARTITION", partition_names=["spring"])
            )
            made.raise_for_error()
            (result,) = made.backups
            assert result.row_count == len(living)
            params = RestoreParams(target_collection_name=f"{name}_back", load_after_restore=True)
            restored = await manager.restore_backup(result.backup_id, params=params)
            restored.raise_for_error()
        assert read_all(server.client, f"{name}_back") == living
    finally:
        there.drop_collection("films")
        there.close()
        server.client.drop_database(name)


Moments = list[tuple[int, dict[Any, Row]]]


def script(server: Milvus, name: str) -> Moments:
    """A history of inserts, upserts and deletes over several segments; ten moments of it, with what was there then.

    Milvus moves its clock in steps of 50 ms, so that moments have to be further apart than that.
    """
    rng = random.Random(5)
    create(server.client, name, Recipe([key_field(), FieldSchema("gen", DataType.INT64), *_vector()], _gen(0, 400, 0)))
    moments: Moments = []
    for step in range(10):
        server.client.insert(name, _gen(400 + step * 50, 450 + step * 50, step))
        server.client.upsert(name, _gen(step * 20, step * 20 + 30, step + 100))
        server.client.delete(name, ids=rng.sample(range(400 + step * 50), 25))
        if step in (2, 5):
            server.client.flush(name)
        living = read_all(server.client, name)
        time.sleep(0.15)
        moments.append((time.time_ns() // 1_000_000, living))
        time.sleep(0.15)
    return moments


def _vector() -> list[FieldSchema]:
    return [FieldSchema("vector", DataType.FLOAT_VECTOR, dim=8)]


def _gen(start: int, end: int, gen: int) -> list[Row]:
    return [{"id": key, "gen": gen, "vector": vector_of(key)} for key in range(start, end)]


async def compare(native: Native, name: str, moments: Moments) -> list[tuple[str, bool]]:
    """Makes a backup, and tells of each moment what is said of it and whether its rows are right."""
    told = []
    async with native() as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        for at, living in moments:
            with await manager.open_backup(made.backup_id, columns=["id", "gen"], as_of=at) as reader:
                rows = {row["id"]: row["gen"] for row in pa.table(reader).to_pylist()}
                told.append((reader.history, rows == {key: row["gen"] for key, row in living.items()}))
                assert reader.history_reason
    return told


async def test_ten_earlier_moments_are_as_the_server_told_them_then(calm, calm_native, name):
    moments = script(calm, name)
    told = await compare(calm_native, name, moments)
    assert all(right for _, right in told), told
    assert [history for history, _ in told].count("EXACT") >= 8, told


async def test_of_compacted_rows_no_moment_that_is_wrong_is_called_exact(calm, calm_native, name):
    # On a server that compacts when it is asked to: 2.3.5 loses deletes that race its compaction.
    moments = script(calm, name)
    calm.client.flush(name)
    wrong: list[str] = []
    # A segment whose index is not built yet is left out of a compaction: not every one takes rows away.
    for _ in range(15):
        time.sleep(1)
        compact(calm, name)
        told = await compare(calm_native, name, moments)
        wrong = [history for history, right in told if not right]
        assert "EXACT" not in wrong, told
        if wrong:
            break
    assert wrong, told
    # What was there when the backup was made is right whatever came before.
    assert told[-1][1], told


def compact(server: Milvus, name: str) -> None:
    job = server.client.compact(name)
    for _ in range(120):
        if server.client.get_compaction_state(job) == "Completed":
            return
        time.sleep(0.5)


async def test_an_earlier_moment_is_restored(calm, calm_native, name):
    moments = script(calm, name)
    at, living = moments[4]
    async with calm_native() as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        params = RestoreParams(target_collection_name=f"{name}_then", as_of=at, load_after_restore=True)
        restored = await manager.restore_backup(made.backup_id, params=params)
        restored.raise_for_error()
        assert (restored.rows_restored, restored.warnings) == (len(living), [])
        with pytest.raises(ValueError, match="later than the moment"):
            await manager.open_backup(made.backup_id, as_of=int(time.time() * 1000) + 60_000)
    assert read_all(calm.client, f"{name}_then") == living
