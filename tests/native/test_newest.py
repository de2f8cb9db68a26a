"""Rows that share a primary key: a native backup holds them all, and of each key the newest is read and restored.

Milvus 2.3.5 itself shows another of them after each load, and of those in one segment the oldest.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pymilvus import DataType, FieldSchema, MilvusClient

from milvault import BackupManager, BackupParams, InvalidArgumentError, RestoreParams, VerificationParams
from tests.conftest import Connect, Milvus
from tests.recipes import Recipe, Row, count, create, expected, key_field, read_all, vector_field, vector_of

pytestmark = [pytest.mark.server]

KEYS = range(120)
SHARED = KEYS[::3]
"""Those that have three rows."""
OLDER = 2 * len(SHARED)


def rows(generation: int, keys: range, text: bool) -> list[Row]:
    vector = vector_of(generation)
    return [{"id": f"key {key}" if text else key, "vector": vector} for key in keys]


def make(client: MilvusClient, name: str, *, apart: bool = True, text: bool = False) -> dict[Any, Row]:
    """A collection of three generations, each in a segment of its own or all in one; of each key the last write."""
    fields = [key_field(DataType.VARCHAR if text else DataType.INT64), vector_field()]
    recipe = Recipe(fields, rows(1, KEYS, text))
    create(client, name, recipe)
    for generation in (2, 3):
        if apart:
            client.flush(name)
        client.insert(name, rows(generation, SHARED, text))
    client.flush(name)
    assert count(client, name) == len(KEYS) + OLDER, "this server deduplicates inserts; the test has lost its subject"
    return {**expected(recipe), **expected(recipe, rows(3, SHARED, text))}


async def table_of(manager: BackupManager, *which: str, **how: Any) -> pa.Table:
    with await manager.open_backup(*which, **how) as reader:
        return pa.table(reader)


def as_rows(table: pa.Table) -> dict[Any, Row]:
    read = expected(Recipe([key_field(), vector_field()], []), table.to_pylist())
    assert len(read) == table.num_rows, "keys come twice"
    return read


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "texts"])
@pytest.mark.parametrize("apart", [True, False], ids=["segments", "requests"])
async def test_of_rows_that_share_a_key_the_newest_is_read_and_restored(apart, text, server, native, connect, name):
    newest = make(server.client, name, apart=apart, text=text)
    async with native() as manager, connect(server) as by_queries:
        made = await manager.create_backup(name)
        assert made.row_count == len(KEYS)
        (warning,) = made.warnings
        assert f"{OLDER} rows have a newer one" in warning
        assert ('"key 0" (3 times)' if text else "0 (3 times), 3 (3 times)") in warning
        assert made.metadata.digest["partitions"]["_default"] == {"rows": len(KEYS), "older_rows": OLDER}
        assert as_rows(await table_of(manager, made.backup_id)) == newest
        for kind in ("QUICK", "DEEP"):
            params = VerificationParams(verification_type=kind, sample_size=100.0)
            verified = await manager.verify_backup(made.backup_id, params=params)
            assert verified.success, verified
        # With the files at hand, without them, and by the server's own choice.
        for number, (restorer, via) in enumerate([(manager, "INSERT"), (by_queries, "INSERT"), (manager, "AUTO")]):
            params = RestoreParams(target_collection_name=f"{name}_{number}", via=via, load_after_restore=True)
            restored = await restorer.restore_backup(made.backup_id, params=params)
            restored.raise_for_error()
            assert restored.verification_passed
            assert restored.rows_restored == len(KEYS)
            assert any(f"{OLDER} rows have a newer one" in warning for warning in restored.warnings)
            assert read_all(server.client, f"{name}_{number}") == newest
            assert count(server.client, f"{name}_{number}") == len(KEYS)
        with pytest.raises(InvalidArgumentError, match=f"{OLDER} of its rows have a newer one"):
            await manager.restore_backup(
                made.backup_id, params=RestoreParams(target_collection_name=f"{name}_import", via="IMPORT")
            )
        assert not server.client.has_collection(f"{name}_import")


async def test_of_one_requests_rows_the_first_counts(server, native, name):
    recipe = Recipe([key_field(), vector_field()], rows(1, KEYS, False))
    create(server.client, name, recipe)
    both = [
        row
        for key in range(200, 230)
        for row in rows(1, range(key, key + 1), False) + rows(2, range(key, key + 1), False)
    ]
    server.client.insert(name, both)
    async with native() as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        read = as_rows(await table_of(manager, made.backup_id))
    assert read == {**expected(recipe), **expected(recipe, rows(1, range(200, 230), False))}


async def test_rows_of_a_key_may_be_in_several_partitions_of_a_partition_key(server, native, name):
    fields = [key_field(), FieldSchema("kind", DataType.INT64, is_partition_key=True), vector_field()]
    of = [[{"id": key, "kind": kind, "vector": vector_of(kind)} for key in KEYS] for kind in range(3)]
    create(server.client, name, Recipe(fields, of[0], spread=4))
    for again in of[1:]:
        server.client.insert(name, again)
    async with native() as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        read = await table_of(manager, made.backup_id)
    assert read.num_rows == made.row_count == len(KEYS)
    assert expected(Recipe(fields, []), read.to_pylist()) == expected(Recipe(fields, of[2]))


async def test_as_of_an_earlier_moment_the_newest_of_then_comes(calm: Milvus, calm_native, name):
    """Each backup's moment lies between two generations; the last one shows all of them."""
    client, moments = calm.client, []
    recipe = Recipe([key_field(), vector_field()], rows(1, KEYS, False))
    create(client, name, recipe)
    async with calm_native() as manager:
        for generation in (2, 3, 4):
            made = await manager.create_backup(name)
            made.raise_for_error()
            moments.append(made.metadata.snapshot["timestamp"])
            client.insert(name, rows(generation, SHARED, False))
        # What is deleted hides none of the rows that came before it.
        client.delete(name, ids=list(SHARED))
        last = await manager.create_backup(name)
        last.raise_for_error()
        assert last.row_count == len(KEYS) - len(SHARED)
        assert last.warnings == []
        for generation, moment in enumerate(moments, 1):
            read = as_rows(await table_of(manager, last.backup_id, as_of=moment))
            assert read == {**expected(recipe), **expected(recipe, rows(generation, SHARED, False))}


async def test_parquet_from_the_same_files_fails_or_collapses_to_the_newest(server, native, name):
    newest = make(server.client, name)
    async with native(default_storage_type="LOCAL_FILE") as manager:
        refused = await manager.create_backup(name)
        assert not refused.success
        assert "0 (3 times), 3 (3 times)" in refused.error_message
        made = await manager.create_backup(name, BackupParams(duplicates="collapse", source="binlogs"))
        made.raise_for_error()
        assert made.row_count == len(KEYS)
        assert any(f"{OLDER} rows have a newer one" in warning for warning in made.warnings)
        assert as_rows(await table_of(manager, made.backup_id)) == newest


async def test_backups_that_others_made_are_read_so_too(server, native, connect: Connect, name, root: Path):
    """The files alone, as milvus-backup would have copied them: read in place, restored, and taken in."""
    newest = make(server.client, name)
    async with native() as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
    theirs = root / "theirs"
    for part in ("meta", "binlogs"):
        shutil.copytree(Path(made.storage_path) / part, theirs / part)
    async with connect(server, root=root / "ours") as manager:
        assert as_rows(await table_of(manager, str(theirs))) == newest
        restored = await manager.restore_backup(
            str(theirs), params=RestoreParams(target_collection_name=f"{name}_back")
        )
        restored.raise_for_error()
        assert any(f"{OLDER} rows have a newer one" in warning for warning in restored.warnings)
        server.client.load_collection(f"{name}_back")
        assert read_all(server.client, f"{name}_back") == newest
        (taken,) = await manager.adopt_backup(str(theirs))
        assert taken.row_count == len(KEYS)
        assert any(f"{OLDER} rows have a newer one" in warning for warning in taken.warnings)
        assert as_rows(await table_of(manager, taken.backup_id)) == newest
