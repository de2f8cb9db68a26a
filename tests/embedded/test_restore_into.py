"""Restores into a collection that exists, by primary key; and dry runs, which tell and write nothing."""

from __future__ import annotations

import asyncio
import re

import pytest
from pydantic import ValidationError
from pymilvus import DataType, FieldSchema

from milvault import RestoreParams, RestoreTimeoutError, RestoreValidationError, SchemaIncompatibleError
from tests.backup_files import data_files, leftovers
from tests.conftest import files_under
from tests.embedded.test_cancellation import Until
from tests.recipes import (
    RECIPES,
    Recipe,
    count,
    create,
    create_large,
    expected,
    fill,
    key_field,
    partitioned,
    plain,
    read_all,
    vector_field,
    vector_of,
)

pytestmark = pytest.mark.timeout(240)


def into(**more) -> RestoreParams:
    return RestoreParams(into_existing=True, **more)


async def changed_since(milvus, name: str) -> dict:
    """Rows 0..99 gone, 100..149 changed, 1000..1009 new; what is there then."""
    milvus.client.delete(name, filter="id < 100")
    milvus.client.upsert(name, [{"id": key, "vector": vector_of(-key)} for key in range(100, 150)])
    fill(milvus.client, name, plain(0), plain(10, start=1000).rows)
    return read_all(milvus.client, name)


async def test_fail_writes_nothing_where_any_key_is_there(milvus, connect, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter="id != 299")  # the last key of all is the one in the way
        before = read_all(milvus.client, name)
        failed = await manager.restore_backup(backup.backup_id, name, into())
        assert not failed.success
        assert isinstance(failed.error, RestoreValidationError)
        assert "299" in failed.error_message
        assert "on_conflict=SKIP" in failed.error_message
        assert read_all(milvus.client, name) == before
        milvus.client.delete(name, filter="id == 299")
        restored = await manager.restore_backup(backup.backup_id, name, into())
        assert restored.success, restored.error_message
    assert restored.rows_restored == 300
    assert restored.verification_passed is True
    assert read_all(milvus.client, name) == expected(recipe)
    assert leftovers(root) == []


async def test_skip_keeps_the_rows_that_are_there(milvus, connect, name):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        now = await changed_since(milvus, name)
        restored = await manager.restore_backup(backup.backup_id, name, into(on_conflict="SKIP"))
        assert restored.success, restored.error_message
    assert restored.rows_restored == 100
    assert restored.verification_details["skipped"] == 200
    assert any("200 rows" in warning for warning in restored.warnings)
    assert read_all(milvus.client, name) == expected(recipe) | now
    assert count(milvus.client, name) == 310


async def test_overwrite_puts_the_backups_rows_in_their_place(milvus, connect, name):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        now = await changed_since(milvus, name)
        restored = await manager.restore_backup(backup.backup_id, name, into(on_conflict="OVERWRITE"))
        assert restored.success, restored.error_message
    assert restored.rows_restored == 300
    assert restored.verification_details["replaced"] == 200
    assert read_all(milvus.client, name) == now | expected(recipe)
    assert count(milvus.client, name) == 310


async def test_a_row_that_moved_to_another_partition_moves_back(milvus, connect, name):
    recipe = partitioned(90)
    create(milvus.client, name, recipe)
    before = {part: read_all(milvus.client, name, partitions=[part]) for part in ("_default", "spring", "autumn")}
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter="id in [0, 3]", partition_name="_default")
        milvus.client.insert(name, plain(2, step=3).rows, partition_name="autumn")
        milvus.client.create_partition(name, "winter")
        milvus.client.insert(name, plain(2, start=1000).rows, partition_name="winter")
        params = into(on_conflict="OVERWRITE", partition_names=["_default", "spring"])
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert {part: read_all(milvus.client, name, partitions=[part]) for part in before} == before
    assert count(milvus.client, name) == 92


async def test_of_keys_that_partitions_share_no_row_is_lost(server, lite, connect, name):
    recipe = Recipe(plain(0).fields, [])
    create(server.client, name, recipe)
    rows = {part: plain(40, start=start).rows for part, start in (("_default", 0), ("spring", 39), ("autumn", 200))}
    for row in rows["spring"]:
        row["vector"] = vector_of(-row["id"] - 1)
    for part, some in rows.items():
        if part != "_default":
            server.client.create_partition(name, part)
        server.client.insert(name, some, partition_name=part)

    def parts() -> dict:
        return {part: read_all(server.client, name, partitions=[part]) for part in rows}

    before = parts()
    assert before["_default"][39] != before["spring"][39]
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
        for dry_run in (True, False):
            params = into(on_conflict="OVERWRITE", dry_run=dry_run)
            with pytest.raises(RestoreValidationError, match=r"such as 39 \(_default and spring\), and OVERWRITE"):
                await manager.restore_backup(backup.backup_id, name, params)
        assert parts() == before
        apart = into(on_conflict="OVERWRITE", partition_names=["spring", "autumn"], where="id > 39")
        restored = await manager.restore_backup(backup.backup_id, name, apart)
        assert restored.success, restored.error_message
        assert restored.verification_details["replaced"] == 79
        server.client.delete(name, filter="id >= 0")
        restored = await manager.restore_backup(backup.backup_id, name, into())
        assert restored.success, restored.error_message
    assert parts() == before
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        for policy in ("FAIL", "SKIP", "OVERWRITE"):
            with pytest.raises(RestoreValidationError, match=r"39 .*, and Milvus Lite"):
                await manager.restore_backup(backup.backup_id, name, into(on_conflict=policy))
    assert count(lite.client, name) == 0


async def test_partitions_that_are_missing_are_made(lite, connect, name):
    recipe = partitioned(90)
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        lite.client.drop_collection(name)
        create(lite.client, name, Recipe(recipe.fields, []))
        restored = await manager.restore_backup(backup.backup_id, name, into())
        assert restored.success, restored.error_message
    assert sorted(lite.client.list_partitions(name)) == ["_default", "autumn", "spring"]
    assert read_all(lite.client, name) == expected(recipe)


@pytest.mark.parametrize("recipe_name", ["awkward_strings", "every_scalar", "partition_key", "dynamic"])
@pytest.mark.parametrize("policy", ["SKIP", "OVERWRITE"])
async def test_rows_of_every_sort_go_in(milvus, connect, name, recipe_name, policy):
    recipe = RECIPES[recipe_name]()
    create(milvus.client, name, recipe)
    key = next(iter(expected(recipe)))
    literal = f'"{key}"' if isinstance(key, str) else key
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter=f"{recipe.key} > {literal}")
        assert 0 < count(milvus.client, name) < len(recipe.rows)
        restored = await manager.restore_backup(backup.backup_id, name, into(on_conflict=policy))
        assert restored.success, restored.error_message
    assert read_all(milvus.client, name) == expected(recipe)
    assert count(milvus.client, name) == len(recipe.rows)


@pytest.mark.parametrize("policy", ["SKIP", "OVERWRITE"])
async def test_the_lowest_key_is_looked_for_among_others(milvus, connect, name, policy):
    keys = [-(2**63), -(2**63) + 1, -5, 0, 7]
    recipe = Recipe([key_field(), vector_field(8)], [{"id": key, "vector": vector_of(key)} for key in keys])
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter="id == -5")  # the last of a batch: it is looked for to the end
        restored = await manager.restore_backup(backup.backup_id, name, into(on_conflict=policy, batch_rows=3))
        assert restored.success, restored.error_message
    assert restored.verification_details["inserted"] == 1
    assert read_all(milvus.client, name) == expected(recipe)


async def test_a_collection_that_is_not_loaded_is_left_so(server, connect, name):
    create(server.client, name, plain(200))
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
        server.client.delete(name, filter="id < 50")
        server.client.release_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, into(on_conflict="SKIP"))
        assert restored.success, restored.error_message
        assert server.client.get_load_state(name)["state"].name == "NotLoad"
        loaded = await manager.restore_backup(backup.backup_id, name, into(on_conflict="SKIP", load_after_restore=True))
        assert loaded.rows_restored == 0
    assert count(server.client, name) == 200


async def test_a_schema_that_does_not_fit_is_refused_with_each_reason(milvus, connect, name):
    fields = [key_field(), FieldSchema("text", DataType.VARCHAR, max_length=100), vector_field(8)]
    create(milvus.client, name, Recipe(fields, [{"id": 1, "text": "a", "vector": vector_of(1)}]))
    target = f"{name}_other"
    others = [
        key_field(),
        FieldSchema("text", DataType.VARCHAR, max_length=10),
        FieldSchema("more", DataType.INT64),
        vector_field(4),
    ]
    create(milvus.client, target, Recipe(others, []))
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        with pytest.raises(SchemaIncompatibleError) as failure:
            await manager.restore_backup(backup.backup_id, name, into(target_collection_name=target))
    reasons = failure.value.incompatibilities
    assert len(reasons) == 3, reasons
    for word in ("max_length", "'more'", "dimension"):
        assert any(word in reason for reason in reasons), word
    assert failure.value.backup_schema
    assert failure.value.target_schema
    assert count(milvus.client, target) == 0


@pytest.mark.parametrize("policy", ["SKIP", "OVERWRITE"])
async def test_a_failure_leaves_rows_in_and_names_what_completes_it(lite_tcp, connect, name, root, policy):
    # The fault: the last of four data files is not there. Rows that are in by then stay, and are the backup's.
    create_large(lite_tcp.uri, name, 2_000, 512)
    async with connect(lite_tcp, default_chunk_size_mb=1) as manager:
        backup = await manager.create_backup(name)
        whole = read_all(lite_tcp.client, name)
        lite_tcp.client.delete(name, filter="id >= 0")
        if policy == "OVERWRITE":  # a row that SKIP would leave as it is
            lite_tcp.client.insert(name, [{"id": 1_999, "vector": [0.5] * 512}])
        hidden = data_files(backup.storage_path)[-1]
        hidden.rename(hidden.with_suffix(".hidden"))
        unchecked = into(on_conflict=policy, verify_before_restore=False)
        failed = await manager.restore_backup(backup.backup_id, name, unchecked)
        assert not failed.success
        assert f"the same restore with on_conflict={policy} " in failed.error_message
        some = read_all(lite_tcp.client, name)
        assert 0 < len(some) < 2_000
        if policy == "OVERWRITE":
            assert some.pop(1_999) != whole[1_999]
        assert some.items() <= whole.items()
        hidden.with_suffix(".hidden").rename(hidden)
        again = await manager.restore_backup(backup.backup_id, name, into())
        assert isinstance(again.error, RestoreValidationError)
        restored = await manager.restore_backup(backup.backup_id, name, into(on_conflict=policy))
        assert restored.success, restored.error_message
    assert read_all(lite_tcp.client, name) == whole
    assert leftovers(root) == []


async def test_one_that_runs_out_of_time_tells_what_stays(lite_tcp, connect, name, root):
    create_large(lite_tcp.uri, name, 5_000, 64)
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
        whole = read_all(lite_tcp.client, name)
        lite_tcp.client.delete(name, filter="id >= 0")
        slow = into(batch_rows=200, max_requests_in_flight=1, bandwidth_limit_mib=0.25, verify_before_restore=False)
        failed = await manager.restore_backup(backup.backup_id, name, slow, timeout=3)
        assert isinstance(failed.error, RestoreTimeoutError)
        told = re.search(r"of 5000 rows, (\d+) and maybe some more are in '(\w+)' and stay", failed.error_message)
        assert told, failed.error_message
        assert told[2] == name
        assert "timeout=" in failed.error_message
        assert "undone" not in failed.error_message
        await asyncio.sleep(0.5)  # the server may still be at what it was asked for last
        some = read_all(lite_tcp.client, name)
        assert 0 < int(told[1]) <= len(some) < 5_000
        assert some.items() <= whole.items()
    assert leftovers(root) == []


async def test_a_canceled_one_leaves_each_row_old_or_new(lite_tcp, connect, name, root):
    create_large(lite_tcp.uri, name, 5_000, 64)
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
        whole = read_all(lite_tcp.client, name)
        lite_tcp.client.delete(name, filter="id >= 2500")
        until = Until("inserting", rows=1)
        params = into(on_conflict="OVERWRITE", batch_rows=200)
        task = asyncio.create_task(manager.restore_backup(backup.backup_id, name, params, progress=until))
        await asyncio.wait_for(until.reached.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.5)  # the server may still be at what it was asked for last
        some = read_all(lite_tcp.client, name)
        assert some.items() <= whole.items()
        assert set(range(2500)) <= set(some)
        restored = await manager.restore_backup(backup.backup_id, name, into(on_conflict="OVERWRITE"))
        assert restored.success, restored.error_message
    assert read_all(lite_tcp.client, name) == whole
    assert leftovers(root) == []


async def test_there_has_to_be_a_collection_to_go_into(lite, connect, name):
    create(lite.client, name, plain(10))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        with pytest.raises(RestoreValidationError, match="nowhere"):
            await manager.restore_backup(backup.backup_id, name, into(target_collection_name="nowhere"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"into_existing": True, "drop_existing": True},
        {"into_existing": True, "auto_id": "REGENERATE"},
        {"into_existing": True, "skip_failed_partitions": True},
        {"on_conflict": "SKIP"},
    ],
)
def test_what_does_not_go_together_is_refused(wrong):
    with pytest.raises(ValidationError, match="into_existing"):
        RestoreParams(**wrong)


async def test_a_dry_run_tells_the_plan_and_writes_nothing(milvus, connect, name, root):
    create(milvus.client, name, partitioned(90))
    alias = f"{name}_alias"
    milvus.client.create_alias(name, alias)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter="id < 10")
        files, before = files_under(root), set(milvus.client.list_collections())

        free = RestoreParams(target_collection_name=f"{name}_new", partition_names=["spring"], dry_run=True)
        told = await manager.restore_backup(backup.backup_id, name, free)
        assert told.success
        assert told.dry_run
        assert told.rows_restored == 0
        assert told.plan["action"] == "CREATE"
        assert told.plan["target_collection_name"] == f"{name}_new"
        assert told.plan["target_database"] == "default"
        assert told.plan["partitions"] == {"spring": 30}
        assert (told.plan["rows"], told.plan["load"], told.plan["proof"]) == (30, False, "DIGEST")
        assert [index["field"] for index in told.plan["indexes"]] == ["vector"]

        told = await manager.restore_backup(backup.backup_id, name, RestoreParams(drop_existing=True, dry_run=True))
        assert (told.plan["action"], told.plan["rows"], told.plan["aliases"]) == ("REPLACE", 90, [alias])

        params = into(on_conflict="SKIP", dry_run=True)
        told = await manager.restore_backup(backup.backup_id, name, params)
        assert told.plan["action"] == "INSERT"
        assert told.plan["conflicts"]["rows"] == 80
        assert len(told.plan["conflicts"]["examples"]) == 10
        with pytest.raises(RestoreValidationError, match="exists already"):
            await manager.restore_backup(backup.backup_id, name, RestoreParams(dry_run=True))
    assert files_under(root) == files
    assert set(milvus.client.list_collections()) == before
    assert count(milvus.client, name) == 80
