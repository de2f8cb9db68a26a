"""Backing several collections up in one call: which ones a filter means, and what one that fails does to the others."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest
from pymilvus import MilvusClient

from milvault import (
    BackupAlreadyExistsError,
    BackupError,
    BackupManager,
    BackupParams,
    BackupRecoveryError,
    BackupSet,
    BackupState,
    CollectionNotFoundError,
    InvalidArgumentError,
    RestoreParams,
)
from milvault._sets import patterns_of
from tests.conftest import Milvus
from tests.recipes import count, create, plain


async def test_the_collections_of_a_filter_are_backed_up_and_restored(milvus, connect, name):
    rows = {f"{name}_a": 30, f"{name}_b": 0, f"{name}_c": 7}
    for collection, number in rows.items():
        create(milvus.client, collection, plain(number))
    seen = []
    async with connect(milvus) as manager:
        made = await manager.create_backups(
            f"{name}_c, default.{name}_a,{name}_b,{name}_c", "before the move", progress=seen.append
        )
        made.raise_for_error()
        assert isinstance(made, BackupSet)
        assert [each.collection_name for each in made.backups] == [f"{name}_c", f"{name}_a", f"{name}_b"]
        assert {each.backup_name for each in made.backups} == {made.name} == {"before the move"}
        assert (made.success, made.row_count, made.failed) == (True, 37, [])
        assert made.size_bytes == sum(each.size_bytes for each in made.backups)
        for collection, number in rows.items():
            [listed] = await manager.list_backups(collection)
            assert (listed.row_count, listed.backup_name) == (number, "before the move")
            restored = await manager.restore_backup(
                "before the move", collection, RestoreParams(target_collection_name=f"{collection}_copy")
            )
            restored.raise_for_error()
            assert restored.rows_restored == number
    assert [each.percentage for each in seen].count(100) >= 3


async def test_one_that_fails_does_not_stop_the_others(lite, connect, name):
    first, last = f"{name}_first", f"{name}_last"
    create(lite.client, first, plain(5))
    create(lite.client, last, plain(6))
    async with connect(lite) as manager:
        await manager.create_backup(first, BackupParams(backup_name="nightly"))
        made = await manager.create_backups([first, "not_there", last], "nightly")
        assert [each.success for each in made.backups] == [False, False, True]
        assert not made.success
        assert (made.succeeded, made.failed) == (made.backups[2:], made.backups[:2])
        assert [type(each.error) for each in made.failed] == [BackupAlreadyExistsError, CollectionNotFoundError]
        assert {each.state for each in made.failed} == {BackupState.FAILED}
        with pytest.raises(BackupError, match="2 of 3 collections") as raised:
            made.raise_for_error()
        assert set(raised.value.context["failed"]) == {f"default.{first}", "default.not_there"}
        assert isinstance(raised.value.__cause__, BackupAlreadyExistsError)
        assert [backup.collection_name for backup in await manager.list_backups()] == [last, first]

        alone = await manager.create_backups(["not_there", last])
        with pytest.raises(CollectionNotFoundError, match="not_there"):
            alone.raise_for_error()
    assert f"failed=['default.{first}', 'default.not_there']" in repr(made)
    assert "1 of 3 collections backed up" in made._repr_html_()
    told = made.to_dict()
    assert told["backups"][1]["error"]["type"] == "CollectionNotFoundError"
    assert (told["row_count"], told["name"]) == (6, "nightly")
    assert pickle.loads(pickle.dumps(made)).backups[2] == made.backups[2]


async def test_without_a_filter_it_is_everything_but_what_a_restore_is_making(lite, connect, name):
    for collection in (f"{name}_b", f"{name}_a", "mv_0123abcd", "mv_0123abcdef"):
        create(lite.client, collection, plain(3))
    async with connect(lite) as manager:
        every = await manager.create_backups()
        assert [each.collection_name for each in every.backups] == ["mv_0123abcdef", f"{name}_a", f"{name}_b"]
        every.raise_for_error()
        same = await manager.create_backups("*")
        assert [each.collection_name for each in same.backups] == [each.collection_name for each in every.backups]
        [named] = (await manager.create_backups("mv_0123abcd")).backups
        assert named.success
    for collection in ("mv_0123abcd", "mv_0123abcdef"):
        lite.client.drop_collection(collection)


@pytest.fixture
def shop(milvus: Milvus, name: str) -> Iterator[tuple[str, MilvusClient]]:
    """A database of its own; it and its collections go when the test ends."""
    database = f"shop_{name[-8:]}"
    milvus.client.create_database(database)
    client = MilvusClient(milvus.uri, db_name=database)
    yield database, client
    for collection in client.list_collections():
        client.drop_collection(collection)
    client.close()
    milvus.client.drop_database(database)


async def test_several_databases_over_one_manager(milvus, shop, connect, name, root):
    database, shop_client = shop
    create(milvus.client, name, plain(4))
    create(shop_client, name, plain(9))
    create(shop_client, f"{name}_other", plain(2))
    async with connect(milvus) as manager, connect(None) as reader:
        made = await manager.create_backups(f"{name},{database}.*", "both")
        made.raise_for_error()
        found = [(each.database, each.collection_name, each.row_count) for each in made.backups]
        assert found == [("default", name, 4), (database, name, 9), (database, f"{name}_other", 2)]
        assert {path.name for path in root.iterdir()} >= {name, f"{database}.{name}", f"{database}.{name}_other"}
        assert len(await reader.list_backups()) == 3
        assert [each.collection_name for each in await manager.list_backups()] == [name]
        every = await manager.create_backups()
        assert {(each.database, each.collection_name) for each in every.succeeded} >= {pair[:2] for pair in found}

        gone = await manager.create_backups(f"{database}.gone,{database}.{name}")
        assert [each.success for each in gone.backups] == [False, True]
        assert gone.failed[0].database == database
        with pytest.raises(InvalidArgumentError, match="has no database 'nowhere'"):
            await manager.create_backups("nowhere.*")
    async with BackupManager.connect(milvus.uri, root, db_name=database) as manager:
        restored = await manager.restore_backup(
            "both", f"{name}_other", RestoreParams(target_collection_name=f"{name}_copy", load_after_restore=True)
        )
        restored.raise_for_error()
        own = await manager.create_backups(f"{name}_other")
        assert [each.database for each in own.backups] == [database]
    assert count(shop_client, f"{name}_copy") == 2


async def test_a_filter_that_means_nothing_is_refused(lite, connect):
    async with connect(lite) as manager:
        create(lite.client, "mv_0123abcd", plain(1))
        for nothing in (None, "*", "default.*"):
            with pytest.raises(CollectionNotFoundError):
                await manager.create_backups(nothing)
        with pytest.raises(InvalidArgumentError, match="two names"):
            await manager.create_backups("a", "one", BackupParams(backup_name="other"))
    lite.client.drop_collection("mv_0123abcd")


async def test_a_server_that_is_down_is_told_once(connect):
    async with connect("http://127.0.0.1:9", max_retries=0) as manager:
        with pytest.raises(BackupRecoveryError, match=r"127\.0\.0\.1:9"):
            await manager.create_backups(["a", "b"])


@pytest.mark.parametrize("wrong", ["", "a,,b", ".a", "a.", "a.b.c", "a*", "*.a", "*.*", "a.b*", []])
def test_a_part_of_no_known_form_is_refused(wrong):
    with pytest.raises(InvalidArgumentError, match=r"collection, database\.collection or database\.\*"):
        patterns_of(wrong, "default")
