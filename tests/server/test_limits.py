"""The largest and the smallest that Milvus takes: widths, names, partitions, one row, none."""

from __future__ import annotations

import pytest
from pymilvus import DataType, FieldSchema

from milvault import RestoreParams
from tests.backup_files import leftovers, rows_of
from tests.conftest import SOAK
from tests.recipes import Recipe, create, expected, key_field, plain, read_all, vector_field, vector_of

LONGEST = 255
"""Bytes of the longest name."""


def long_name(start: str) -> str:
    """A name of the greatest length."""
    return start.ljust(LONGEST, "x")


async def replace_by_its_backup(milvus, manager, name):
    """Backs up, drops and restores a collection, and gives the result of each."""
    backup = await manager.create_backup(name)
    backup.raise_for_error()
    milvus.client.drop_collection(name)
    restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
    restored.raise_for_error()
    assert restored.verification_passed is True
    return backup, restored


async def test_rows_wider_than_a_page(milvus, connect, name, root):
    # A page is 4 MiB on a Milvus server: each of these rows is wider, by the largest string, array and vector.
    dim, elements = 32_768, 4_096
    fields = [
        key_field(),
        FieldSchema("text", DataType.VARCHAR, max_length=65_535),
        FieldSchema("words", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=elements, max_length=2_000),
        vector_field(dim),
    ]
    rows = [
        {
            "id": at,
            "text": "x" * 65_533 + "é",
            "words": [f"{at}-{element}".ljust(1_100, ".") for element in range(elements)],
            "vector": vector_of(at, dim),
        }
        for at in range(5)
    ]
    recipe = Recipe(fields, rows)
    create(milvus.client, name, Recipe(fields, []))
    for row in rows:
        milvus.client.insert(name, [row])
    async with connect(milvus) as manager:
        backup, restored = await replace_by_its_backup(milvus, manager, name)
    assert backup.row_count == restored.rows_restored == 5
    assert rows_of(backup.storage_path, recipe) == expected(recipe)
    assert read_all(milvus.client, name) == expected(recipe)


async def test_names_of_the_greatest_length(milvus, connect, name, root):
    name = long_name(name)
    field, alias, partition = long_name("field_"), long_name(f"{name[:60]}_alias_"), long_name("partition_")
    fields = [key_field(), FieldSchema(field, DataType.INT64), vector_field()]
    rows = [{"id": at, field: -at, "vector": vector_of(at)} for at in range(20)]
    recipe = Recipe(fields, rows, partition_of=lambda row: partition if row["id"] % 2 else "_default")
    create(milvus.client, name, recipe)
    milvus.client.create_alias(name, alias)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        backup.raise_for_error()
        result = await manager.restore_backup(backup.backup_id, name, RestoreParams(drop_existing=True))
        result.raise_for_error()
        assert result.verification_passed is True
        assert [listed.backup_id for listed in await manager.list_backups(name)] == [backup.backup_id]
    assert read_all(milvus.client, alias) == expected(recipe)
    assert sorted(milvus.client.list_partitions(name)) == ["_default", partition]
    assert leftovers(root) == []


async def test_one_row(milvus, connect, name):
    recipe = plain(1)
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup, restored = await replace_by_its_backup(milvus, manager, name)
    assert backup.row_count == restored.rows_restored == 1
    assert read_all(milvus.client, name) == expected(recipe)


@pytest.mark.parametrize("where", ["lite_tcp", pytest.param("server", marks=[pytest.mark.server, pytest.mark.soak])])
@pytest.mark.timeout(900)
async def test_a_thousand_partitions(request, connect, name, where):
    if where == "server" and not SOAK:
        pytest.skip("a Milvus server takes a minute for as many; MILVAULT_SOAK=1 runs it")
    milvus = request.getfixturevalue(where)
    base = plain(64)
    recipe = Recipe(base.fields, base.rows, partition_of=lambda row: f"part_{row['id'] * 15:04}")
    create(milvus.client, name, Recipe(base.fields, []))
    for number in range(1_023):
        milvus.client.create_partition(name, f"part_{number:04}")
    for row in recipe.rows:
        milvus.client.insert(name, [row], partition_name=recipe.partition_of(row))
    async with connect(milvus) as manager:
        backup, restored = await replace_by_its_backup(milvus, manager, name)
    assert len(backup.metadata.partition_names) == len(restored.partitions_restored) == 1_024
    assert len(milvus.client.list_partitions(name)) == 1_024
    assert read_all(milvus.client, name) == expected(recipe)
    assert set(read_all(milvus.client, name, partitions=["part_0045"])) == {3}
