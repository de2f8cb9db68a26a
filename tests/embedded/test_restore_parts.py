"""Restores of what can be had of a damaged backup, and restores into other databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from milvault import BackupCorruptedError, BackupParams, RestoreParams, RestoreValidationError
from tests.backup_files import data_files, leftovers
from tests.conftest import STAGING
from tests.faults.processes import run_child
from tests.recipes import create, expected, partitioned, plain, read_all

pytestmark = pytest.mark.timeout(240)

TOLERANT = {"skip_failed_partitions": True, "load_after_restore": True}


def damage(backup, partition: str) -> str:
    """Flips a bit in the middle of the partition's file; its name."""
    (file,) = [file for file in data_files(backup.storage_path) if file.name.startswith(f"{partition}-")]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    return f"data/{file.name}"


@pytest.mark.parametrize("checked_first", [True, False])
async def test_a_damaged_partition_is_left_out_and_the_rest_is_proven(milvus, connect, name, root, checked_first):
    recipe = partitioned(300)
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.drop_collection(name)
        damage(backup, "spring")
        params = RestoreParams(verify_before_restore=checked_first, **TOLERANT)
        restored = await manager.restore_backup(backup.backup_id, name, params)
    assert restored.success is False, "less than was asked for is no success"
    assert restored.error is None
    assert "spring" in restored.error_message
    assert restored.failed_partitions == ["spring"]
    assert restored.partitions_restored == ["_default", "autumn"]
    assert restored.rows_restored == 200
    assert restored.verification_passed is True
    assert any("spring" in warning and "left out" in warning for warning in restored.warnings)
    assert read_all(milvus.client, name) == expected(recipe, [row for row in recipe.rows if row["id"] % 3 != 1])
    assert sorted(milvus.client.list_partitions(name)) == ["_default", "autumn"]
    assert milvus.staging() == []
    assert leftovers(root) == []


async def test_without_leave_a_damaged_partition_fails_the_restore(lite, connect, name):
    create(lite.client, name, partitioned(90))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        lite.client.drop_collection(name)
        file = damage(backup, "spring")
        with pytest.raises(BackupCorruptedError) as failure:
            await manager.restore_backup(backup.backup_id, name)
        assert failure.value.failed_files == [file]
        unchecked = await manager.restore_backup(backup.backup_id, name, RestoreParams(verify_before_restore=False))
        assert not unchecked.success
    assert lite.client.list_collections() == []


@pytest.mark.parametrize("checked_first", [True, False])
async def test_a_collection_is_not_replaced_by_less_than_the_whole(lite, connect, name, checked_first):
    recipe = partitioned(90)
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        damage(backup, "spring")
        params = RestoreParams(drop_existing=True, verify_before_restore=checked_first, **TOLERANT)
        if checked_first:
            with pytest.raises(RestoreValidationError, match="less than the whole"):
                await manager.restore_backup(backup.backup_id, name, params)
        else:
            failed = await manager.restore_backup(backup.backup_id, name, params)
            assert isinstance(failed.error, RestoreValidationError)
    assert read_all(lite.client, name) == expected(recipe)
    assert lite.staging() == []


@pytest.mark.parametrize(
    ("made_of", "chosen", "named"),
    [
        ([], {"where": "id >= 0"}, "filter"),
        ([], {"partition_names": ["spring", "_default"]}, "autumn"),
        (["spring"], {}, "_default"),
    ],
    ids=["rows by a filter", "some partitions", "a backup of one"],
)
async def test_nor_by_what_was_chosen_of_it(milvus, connect, name, made_of, chosen, named):
    recipe = partitioned(90)
    create(milvus.client, name, recipe)
    how = BackupParams(backup_type="PARTITION", partition_names=made_of) if made_of else None
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name, how)
        for dry_run in (True, False):
            params = RestoreParams(drop_existing=True, dry_run=dry_run, **chosen)
            with pytest.raises(RestoreValidationError, match=f"{named}.*less than the whole.*into_existing"):
                await manager.restore_backup(backup.backup_id, name, params)
        assert read_all(milvus.client, name) == expected(recipe)
        assert milvus.staging() == []
        # Where nothing is in its place, and where all of it is chosen, it is restored.
        other = await manager.restore_backup(
            backup.backup_id, name, RestoreParams(target_collection_name=f"{name}_2", **chosen)
        )
        other.raise_for_error()
        whole = await manager.create_backup(name)
        params = RestoreParams(drop_existing=True, partition_names=["_default", "spring", "autumn"])
        (await manager.restore_backup(whole.backup_id, name, params)).raise_for_error()


async def test_where_every_partition_is_damaged_nothing_is_made(lite, connect, name):
    create(lite.client, name, plain(300))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        lite.client.drop_collection(name)
        damage(backup, "_default")
        with pytest.raises(BackupCorruptedError, match="no partition is left"):
            await manager.restore_backup(backup.backup_id, name, RestoreParams(**TOLERANT))
    assert lite.client.list_collections() == []


async def test_a_damaged_schema_is_not_left_out(lite, connect, name):
    create(lite.client, name, partitioned(90))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        lite.client.drop_collection(name)
        with Path(backup.storage_path, "schema.json").open("ab") as file:
            file.write(b" ")
        with pytest.raises(BackupCorruptedError, match=r"schema\.json"):
            await manager.restore_backup(backup.backup_id, name, RestoreParams(**TOLERANT))
    assert lite.client.list_collections() == []


async def test_a_restore_into_another_database(milvus, connect, name, root):
    recipe = plain(200)
    create(milvus.client, name, recipe)
    database = f"db_{name[-8:]}"
    milvus.client.create_database(database)
    elsewhere = MilvusClient(milvus.uri, db_name=database)
    try:
        async with connect(milvus) as manager:
            backup = await manager.create_backup(name)
            params = RestoreParams(target_database=database, load_after_restore=True)
            restored = await manager.restore_backup(backup.backup_id, name, params)
            assert restored.success, restored.error_message
            assert restored.target_database == database
            assert read_all(elsewhere, name) == expected(recipe)
            assert read_all(milvus.client, name) == expected(recipe)
            with pytest.raises(RestoreValidationError, match=database) as failure:
                await manager.restore_backup(backup.backup_id, name, RestoreParams(target_database="nowhere"))
            assert "nowhere" in str(failure.value)
        assert leftovers(root) == []
    finally:
        for collection in elsewhere.list_collections():
            elsewhere.drop_collection(collection)
        elsewhere.close()
        milvus.client.drop_database(database)


async def test_what_a_killed_restore_left_in_another_database_goes_too(lite_tcp, connect, name, root):
    create(lite_tcp.client, name, plain(8000, dim=64))
    database = f"db_{name[-8:]}"
    lite_tcp.client.create_database(database)
    elsewhere = MilvusClient(lite_tcp.uri, db_name=database)
    try:
        async with connect(lite_tcp) as manager:
            backup = await manager.create_backup(name)
            job = {"operation": "restore", "uri": lite_tcp.uri, "root": str(root), "collection": name}
            job |= {"backup": backup.backup_id, "params": {"target_database": database}}
            code, said = run_child(job | {"kill": {"phases": ["inserting"], "delay": 0.02}})
            assert (code, said["died_in"]) == (-9, "inserting")
            await asyncio.sleep(0.5)  # the server may still be at what the dead process asked for last
            assert [one for one in elsewhere.list_collections() if STAGING.match(one)], "it died too early"
            assert (await manager.create_backup(name)).success
        assert elsewhere.list_collections() == []
        assert leftovers(root) == []
    finally:
        for collection in elsewhere.list_collections():
            elsewhere.drop_collection(collection)
        elsewhere.close()
        lite_tcp.client.drop_database(database)
