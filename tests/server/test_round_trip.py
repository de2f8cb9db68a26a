"""What is backed up comes back, on every way of running Milvus, whatever the rows are made of."""

from __future__ import annotations

import pytest
from pymilvus import DataType, FieldSchema

from milvault import BackupParams, BackupType, RestoreParams
from tests.backup_files import json_file, leftovers, rows_of
from tests.recipes import (
    AWKWARD_KEYS,
    RECIPES,
    Recipe,
    awkward_strings,
    count,
    create,
    dynamic,
    every_scalar,
    expected,
    fill,
    key_field,
    partition_key,
    partitioned,
    plain,
    read_all,
    vector_field,
    vector_of,
)

EVERY = {**RECIPES, "partition_key": lambda: partition_key(spread=None)}
"""The recipes, with as many partitions as a server makes by itself."""


@pytest.mark.parametrize("recipe_name", EVERY)
async def test_every_row_comes_back(milvus, connect, name, root, recipe_name):
    recipe = EVERY[recipe_name]()
    create(milvus.client, name, recipe)
    before = read_all(milvus.client, name)
    assert before == expected(recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        assert backup.row_count == count(milvus.client, name) == len(recipe.rows)
        assert rows_of(backup.storage_path, recipe) == before

        milvus.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
        assert restored.verification_passed is True
        assert restored.rows_restored == len(before)
    assert read_all(milvus.client, name) == before
    assert leftovers(root) == []


async def test_a_loaded_collection_can_be_searched_at_once(milvus, connect, name):
    create(milvus.client, name, plain(200))
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.drop_collection(name)
        await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
    (hits,) = milvus.client.search(name, data=[vector_of(123)], limit=1, consistency_level="Strong")
    assert hits[0]["id"] == 123


async def test_rows_inserted_a_moment_ago_are_in_the_backup(milvus, connect, name):
    recipe = plain(2000)
    create(milvus.client, name, recipe)
    fill(milvus.client, name, recipe, plain(500, start=10_000).rows)  # not flushed
    milvus.client.delete(name, filter="id < 100")
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
    assert backup.row_count == 2400
    assert set(rows_of(backup.storage_path, recipe)) == {*range(100, 2000), *range(10_000, 10_500)}


async def test_partitions_come_back_each_with_its_rows(milvus, connect, name):
    recipe = partitioned()
    create(milvus.client, name, recipe)
    before = {part: read_all(milvus.client, name, partitions=[part]) for part in ("_default", "spring", "autumn")}
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
    assert sorted(restored.partitions_restored) == ["_default", "autumn", "spring"]
    assert {part: read_all(milvus.client, name, partitions=[part]) for part in before} == before


async def test_an_empty_partition_comes_back_empty(lite, connect, name):
    create(lite.client, name, plain(10))
    lite.client.create_partition(name, "void")
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        lite.client.drop_collection(name)
        await manager.restore_backup(backup.backup_id, name)
    assert sorted(lite.client.list_partitions(name)) == ["_default", "void"]


async def test_a_backup_of_partitions_holds_only_their_rows(milvus, connect, name):
    recipe = partitioned()
    create(milvus.client, name, recipe)
    params = BackupParams(backup_type=BackupType.PARTITION, partition_names=["spring"])
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name, params)
        assert backup.success, backup.error_message
        assert backup.metadata.partition_names == ["spring"]
        assert backup.metadata.is_partition_backup
        spring = read_all(milvus.client, name, partitions=["spring"])
        assert rows_of(backup.storage_path, recipe) == spring
        milvus.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
    assert read_all(milvus.client, name) == spring
    assert read_all(milvus.client, name, partitions=["spring"]) == spring


async def test_a_restore_of_some_partitions_brings_only_their_rows(milvus, connect, name):
    create(milvus.client, name, partitioned())
    wanted = read_all(milvus.client, name, partitions=["spring", "_default"])
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.drop_collection(name)
        params = RestoreParams(partition_names=["spring", "_default"], load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
        assert sorted(restored.partitions_restored) == ["_default", "spring"]
    assert read_all(milvus.client, name) == wanted


async def test_a_restore_under_another_name_leaves_the_original_alone(milvus, connect, name):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    target = f"{name}_copy"
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter="id < 10")
        params = RestoreParams(target_collection_name=target, load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.target_collection_name == target
    assert read_all(milvus.client, target) == expected(recipe)
    assert count(milvus.client, name) == 290


async def test_drop_existing_replaces_the_collection_and_aliases_follow(milvus, connect, name):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    alias = f"{name}_alias"
    milvus.client.create_alias(name, alias)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter="id >= 100")
        fill(milvus.client, name, recipe, plain(5, start=5000).rows)
        params = RestoreParams(drop_existing=True, load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert read_all(milvus.client, name) == expected(recipe)
    assert milvus.client.list_aliases(name)["aliases"] == [alias]
    assert read_all(milvus.client, alias) == expected(recipe)


async def test_a_backup_through_an_alias_is_the_collections_own(milvus, connect, name, root):
    recipe = plain(50)
    create(milvus.client, f"{name}_old", recipe)
    milvus.client.rename_collection(f"{name}_old", name)
    alias = f"{name}_old"
    milvus.client.create_alias(name, alias)
    async with connect(milvus) as manager:
        described = await manager.collection_manager.describe_collection(alias)
        assert (described["name"], described["aliases"]) == (name, [alias])
        backup = await manager.create_backup(alias)
        assert backup.success, backup.error_message
        assert backup.metadata.collection_name == name
        assert backup.metadata.backup_name.startswith(name)
        assert [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."] == [name]
        listed = await manager.list_backups(name)
        assert [entry.backup_id for entry in listed] == [backup.backup_id]
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(drop_existing=True))
        assert restored.success, restored.error_message
    assert milvus.client.list_aliases(name)["aliases"] == [alias]


async def test_an_index_comes_back_as_it_was_defined(milvus, connect, name):
    definition = {"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 12, "efConstruction": 50}}
    base = plain(100)
    create(milvus.client, name, Recipe(base.fields, base.rows, indexes={"vector": definition}))
    (before,) = [milvus.client.describe_index(name, index) for index in milvus.client.list_indexes(name)]
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.drop_collection(name)
        await manager.restore_backup(backup.backup_id, name)
        described = await manager.collection_manager.describe_collection(name)
    (after,) = [milvus.client.describe_index(name, index) for index in milvus.client.list_indexes(name)]
    keys = ("index_type", "metric_type", "M", "efConstruction", "field_name", "index_name")
    assert {key: after.get(key) for key in keys} == {key: before.get(key) for key in keys}
    assert [index["field"] for index in described["indexes"]] == ["vector"]


async def test_without_indexes_none_is_made(milvus, connect, name):
    create(milvus.client, name, plain(50))
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(restore_indexes=False))
        assert restored.success, restored.error_message
    assert milvus.client.list_indexes(name) == []


async def test_the_schema_comes_back_with_its_limits_and_properties(server, connect, name):
    fields = [
        key_field(DataType.VARCHAR, description="the key"),
        FieldSchema("words", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=7, max_length=33),
        FieldSchema("price", DataType.DOUBLE, description="in euros"),
        vector_field(4),
    ]
    rows = [{"id": key, "words": [key[:30]], "price": 1.5, "vector": vector_of(1, 4)} for key in AWKWARD_KEYS]
    create(server.client, name, Recipe(fields, rows, description="what is sold", dynamic=True, shards=2))
    server.client.alter_collection_properties(name, {"collection.ttl.seconds": "864000"})
    before = server.client.describe_collection(name)
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
        server.client.drop_collection(name)
        await manager.restore_backup(backup.backup_id, name)
    after = server.client.describe_collection(name)
    for part in ("fields", "description", "enable_dynamic_field", "num_shards", "properties", "consistency_level"):
        assert after[part] == before[part], part
    assert json_file(backup.storage_path, "schema.json")["description"] == "what is sold"


@pytest.mark.parametrize("there_and_back", ["server to lite", "lite to server"])
@pytest.mark.parametrize("make", [every_scalar, dynamic, awkward_strings])
async def test_a_backup_restores_onto_the_other_kind_of_server(server, lite, connect, name, root, there_and_back, make):
    source, target = (server, lite) if there_and_back.startswith("server") else (lite, server)
    recipe = make()
    create(source.client, name, recipe)
    async with connect(source) as manager:
        backup = await manager.create_backup(name)
    async with connect(target) as manager:
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
        assert restored.verification_passed is True
    assert read_all(target.client, name) == expected(recipe)


async def test_an_empty_collection_has_a_backup_and_comes_back_empty(milvus, connect, name):
    create(milvus.client, name, plain(0))
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        assert backup.row_count == 0
        milvus.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
        assert restored.rows_restored == 0
    assert count(milvus.client, name) == 0


async def test_a_backup_leaves_the_collection_as_loaded_as_it_was(server, connect, name):
    create(server.client, name, plain(50), load=False)
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
    assert server.client.get_load_state(name)["state"].name == "NotLoad"


async def test_a_collection_without_an_index_on_a_server_is_told_how_to_be_backed_up(server, connect, name, root):
    create(server.client, name, plain(50), load=False)
    for index in server.client.list_indexes(name):
        server.client.drop_index(name, index)
    async with connect(server) as manager:
        with pytest.raises(Exception, match="index") as failure:
            (await manager.create_backup(name)).raise_for_error()
    assert name in str(failure.value)
    assert leftovers(root) == []


async def test_pages_larger_than_a_message_are_split(server, connect, name):
    narrow = plain(1_500)
    text = FieldSchema("text", DataType.VARCHAR, max_length=65_535)
    # The first rows are narrow, so that no page size learned from them holds for the rest, which is 90 MB in all.
    rows = [{**row, "text": "ä" * (30_000 if row["id"] > 200 else 1)} for row in narrow.rows]
    recipe = Recipe([*narrow.fields, text], rows)
    create(server.client, name, Recipe(recipe.fields, []))
    for start in range(0, len(rows), 250):
        server.client.insert(name, rows[start : start + 250])
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
    assert backup.row_count == 1_500
    assert rows_of(backup.storage_path, recipe) == expected(recipe)


async def test_many_rows_over_several_shards_and_ranges_are_all_there(server, connect, name):
    recipe = plain(30_000, dim=4, start=-15_000)
    create(server.client, name, Recipe(recipe.fields, recipe.rows, shards=3))
    async with connect(server, default_chunk_size_mb=1) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        assert rows_of(backup.storage_path, recipe) == expected(recipe)
        server.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
    assert count(server.client, name) == 30_000
