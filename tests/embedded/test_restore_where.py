"""Restores of the rows that match a filter, proven against a digest that is taken while they are written."""

from __future__ import annotations

import pytest
from pymilvus import DataType, FieldSchema

from milvault import InvalidArgumentError, RestoreParams
from tests.backup_files import leftovers
from tests.recipes import Recipe, count, create, expected, key_field, read_all, vector_field, vector_of

pytestmark = pytest.mark.timeout(240)


def wares(count: int) -> Recipe:
    """Rows with a price, a colour and JSON, in two partitions."""
    fields = [
        key_field(),
        FieldSchema("price", DataType.DOUBLE),
        FieldSchema("colour", DataType.VARCHAR, max_length=32),
        FieldSchema("more", DataType.JSON),
        vector_field(),
    ]
    rows = [
        {
            "id": number,
            "price": number / 4,
            "colour": ["red", "green", "blue"][number % 3],
            "more": {"stock": {"count": number % 10}},
            "vector": vector_of(number),
        }
        for number in range(count)
    ]
    return Recipe(fields, rows, partition_of=lambda row: "_default" if row["id"] < count // 2 else "late")


FILTERS = [
    ("price >= 10 and colour == 'red'", lambda row: row["price"] >= 10 and row["colour"] == "red"),
    ("id in [3, 4, 299]", lambda row: row["id"] in (3, 4, 299)),
    ("more['stock']['count'] == 7", lambda row: row["more"]["stock"]["count"] == 7),
]


@pytest.mark.parametrize(("where", "matches"), FILTERS, ids=["scalars", "keys", "json"])
async def test_only_the_rows_that_match_are_restored(milvus, connect, name, root, where, matches):
    recipe = wares(300)
    create(milvus.client, name, recipe)
    wanted = [row for row in recipe.rows if matches(row)]
    target = f"{name}_some"
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        params = RestoreParams(target_collection_name=target, where=where, load_after_restore=True)
        told = await manager.restore_backup(backup.backup_id, name, params.model_copy(update={"dry_run": True}))
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert told.plan["rows"] == restored.rows_restored == len(wanted)
    assert restored.verification_passed is True
    assert restored.verification_details["digest"] == restored.verification_details["expected_digest"]
    assert read_all(milvus.client, target) == expected(recipe, wanted)
    late = [row for row in wanted if row["id"] >= 150]
    assert read_all(milvus.client, target, partitions=["late"]) == expected(recipe, late)
    assert leftovers(root) == []


async def test_rows_that_do_not_come_back_are_noticed(lite_tcp, connect, name):
    # The fault: the server loses a row of the staging collection before it is read back.
    create(lite_tcp.client, name, wares(3000))
    lost = []

    def lose(progress) -> None:
        if progress.phase in ("flushing", "indexing", "loading") and not lost:
            lost.append(lite_tcp.staging()[0])
            lite_tcp.client.delete(lost[0], filter="id == 3")

    async with connect(lite_tcp, progress_poll_interval=0.001) as manager:
        backup = await manager.create_backup(name)
        for attempt in range(5):
            params = RestoreParams(target_collection_name=f"{name}_{attempt}", where="colour == 'red'")
            restored = await manager.restore_backup(backup.backup_id, name, params, progress=lose)
            if lost:
                break
    assert lost
    assert not restored.success
    assert "499 rows" in restored.error_message
    assert "500 rows" in restored.error_message
    assert lite_tcp.staging() == []


async def test_keys_can_be_made_anew_of_the_rows_that_match(lite, connect, name):
    base = wares(90)
    fields = [FieldSchema("id", DataType.INT64, is_primary=True, auto_id=True), *base.fields[1:]]
    rows = [{field: value for field, value in row.items() if field != "id"} for row in base.rows]
    create(lite.client, name, Recipe(fields, rows))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        params = RestoreParams(
            target_collection_name=f"{name}_some", where="price < 5", auto_id="REGENERATE", load_after_restore=True
        )
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert restored.verification_passed is True
    found = lite.client.query(f"{name}_some", filter="price >= 0", output_fields=["price"], limit=100)
    assert sorted(row["price"] for row in found) == [number / 4 for number in range(20)]


async def test_rows_that_match_go_into_an_existing_collection(milvus, connect, name):
    recipe = wares(300)
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter="id < 100")
        params = RestoreParams(into_existing=True, where="colour == 'blue' and id < 100")
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    back = [row for row in recipe.rows if row["id"] >= 100 or row["colour"] == "blue"]
    assert read_all(milvus.client, name) == expected(recipe, back)


async def test_where_nothing_matches_the_collection_is_empty(lite, connect, name):
    create(lite.client, name, wares(30))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        params = RestoreParams(target_collection_name=f"{name}_none", where="price < 0", load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, name, params)
    assert restored.success, restored.error_message
    assert restored.rows_restored == 0
    assert any("no row of the backup matches the filter" in warning for warning in restored.warnings)
    assert count(lite.client, f"{name}_none") == 0


@pytest.mark.parametrize("where", ["price >", "cost > 3", "vector == 1", "colour == 3"])
async def test_what_is_no_filter_of_the_backups_fields_is_refused(lite, connect, name, where):
    create(lite.client, name, wares(30))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        with pytest.raises(InvalidArgumentError, match="where"):
            await manager.restore_backup(backup.backup_id, name, RestoreParams(drop_existing=True, where=where))
    assert count(lite.client, name) == 30
