"""Milvus Lite's peculiarities, measured on 3.2.2, each of which has cost somebody rows."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benches.compare.wire import Wire, insert_all, insert_request
from milvus_lite.adapter.grpc.server import start_server_in_thread
from milvus_lite.server_manager import server_manager_instance
from pymilvus import DataType, FieldSchema, MilvusClient

from milvault import BackupParams, DatabaseLockedError, RestoreParams
from tests.backup_files import data_files, leftovers, rows_of
from tests.recipes import (
    Recipe,
    awkward_strings,
    count,
    create,
    expected,
    fill,
    key_field,
    plain,
    read_all,
    vector_field,
    vector_of,
)


@pytest.mark.parametrize("where", ["lite", "lite_tcp"])
async def test_no_row_is_lost_between_unsorted_pages(request, connect, name, where):
    # Several segments, keys inserted in no order, and enough bytes for several pages: paging by `key > last` without
    # the iterator parameter gave 12,005 of 21,000 rows back.
    milvus = request.getfixturevalue(where)
    rows = 21_000
    order = np.random.default_rng(3).permutation(rows)
    values = np.random.default_rng(4).standard_normal((rows, 512), dtype=np.float32)
    create(milvus.client, name, plain(0, dim=512))
    wire = Wire(milvus.address)
    for start in range(0, rows, 3000):
        some = order[start : start + 3000]
        assert insert_all(wire, [insert_request(name, some, values[some])]) == len(some)
        milvus.client.flush(name)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
    assert backup.row_count == rows
    table = pa.concat_tables([pq.read_table(file) for file in data_files(backup.storage_path)])
    found = dict(zip(table.column("id").to_pylist(), range(rows), strict=True))
    assert set(found) == set(range(rows))
    vectors = table.column("vector").combine_chunks().values.to_numpy().reshape(rows, 512)
    assert np.array_equal(vectors[[found[key] for key in range(rows)]], values)


async def test_the_empty_key_is_not_missed(lite, connect, name):
    # `key > ""` does not match the empty string, so a scan cannot begin there.
    recipe = awkward_strings(5000)
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        assert rows_of(backup.storage_path, recipe)[""] == expected(recipe)[""]
        lite.client.drop_collection(name)
        await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
    assert read_all(lite.client, name) == expected(recipe)


async def test_a_collection_whose_only_key_is_empty(lite, connect, name):
    recipe = Recipe([key_field(DataType.VARCHAR), vector_field()], [{"id": "", "vector": vector_of(0)}])
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        assert backup.row_count == 1
    assert rows_of(backup.storage_path, recipe) == expected(recipe)


async def test_a_database_that_another_process_has_open_is_named_with_its_lock(tmp_path, connect, name):
    path = tmp_path / "taken.db"
    script = f"""
        import sys
        from pymilvus import MilvusClient
        client = MilvusClient({str(path)!r})
        print("open", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"open\n"
        async with connect(str(path)) as manager:
            with pytest.raises(DatabaseLockedError) as failure:
                await manager.create_backup(name)
    finally:
        holder.communicate(b"", timeout=30)
    assert str(path) in str(failure.value)
    assert failure.value.lock_file in str(failure.value)
    assert failure.value.holder_pid == holder.pid


async def test_an_open_client_of_pymilvus_keeps_working_beside_a_manager(lite, connect, name):
    create(lite.client, name, plain(100))
    async with connect(lite) as manager:
        await manager.create_backup(name)
        fill(lite.client, name, plain(0), plain(10, start=1000).rows)
    assert count(lite.client, name) == 110


async def test_first_calls_at_the_same_moment_share_one_server(lite, connect, name):
    names = [f"{name}_{number}" for number in range(4)]
    for each in names:
        create(lite.client, each, plain(10))
    server_manager_instance.release_server(lite.uri)
    async with connect(lite) as manager, connect(lite) as another:
        calls = [(manager, another)[number % 2].create_backup(each) for number, each in enumerate(names)]
        assert [backup.row_count for backup in await asyncio.gather(*calls)] == [10] * 4


async def test_a_server_that_pymilvus_is_just_starting_is_waited_for(lite, connect, name, monkeypatch):
    create(lite.client, name, plain(10))
    server_manager_instance.release_server(lite.uri)
    started = threading.Event()

    def start_slowly(**options):
        running = start_server_in_thread(**options)
        started.set()
        time.sleep(0.5)  # the lock is held, and nobody knows the server yet
        return running

    with monkeypatch.context() as patch:
        patch.setattr("milvus_lite.adapter.grpc.server.start_server_in_thread", start_slowly)
        starting = threading.Thread(target=server_manager_instance.start_and_get_uri, args=(lite.uri,))
        starting.start()
        assert await asyncio.to_thread(started.wait, 30)
    async with connect(lite) as manager:
        assert (await manager.create_backup(name)).row_count == 10
    starting.join()


@pytest.mark.parametrize("where", ["lite", pytest.param("server", marks=pytest.mark.server)])
async def test_keys_made_by_the_server_are_kept_and_never_made_again(request, connect, name, where):
    # Lite takes explicit keys for an auto_id collection without advancing its counter: its next keys would overwrite
    # the restored rows. 2.3.5 refuses them. So the target takes keys from the client, and a warning says so.
    milvus = request.getfixturevalue(where)
    fields = [FieldSchema("id", DataType.INT64, is_primary=True, auto_id=True), vector_field()]
    create(milvus.client, name, Recipe(fields, [{"vector": vector_of(number)} for number in range(200)]))
    before = read_all(milvus.client, name)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
    assert any("auto" in warning for warning in restored.warnings)
    assert read_all(milvus.client, name) == before
    assert not any(field.get("auto_id") for field in milvus.client.describe_collection(name)["fields"])
    with pytest.raises(Exception):  # noqa: B017 - pymilvus's own, for rows without a key
        milvus.client.insert(name, [{"vector": vector_of(9)}])
    fill(milvus.client, name, plain(0), [{"id": 12_345, "vector": vector_of(9)}])
    after = read_all(milvus.client, name)
    assert len(after) == 201
    assert {key: after[key] for key in before} == before


async def test_upserts_and_deletes_before_a_backup_are_honoured(lite, connect, name):
    recipe = plain(3000)
    create(lite.client, name, recipe)
    lite.client.upsert(name, [{"id": key, "vector": vector_of(-key % 99_991)} for key in range(0, 3000, 3)])
    lite.client.delete(name, ids=list(range(1, 3000, 3)))
    before = read_all(lite.client, name)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
    assert backup.row_count == 2000
    assert rows_of(backup.storage_path, recipe) == before


async def test_a_backup_survives_the_database_it_was_made_of(tmp_path, connect, name):
    from milvus_lite.server_manager import server_manager_instance

    recipe, old, new = plain(150), str(tmp_path / "old.db"), str(tmp_path / "new.db")
    client = MilvusClient(old)
    create(client, name, recipe)
    async with connect(old) as manager:
        backup = await manager.create_backup(name)
    server_manager_instance.release_server(old)
    async with connect(new) as manager:
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
    assert read_all(MilvusClient(new), name) == expected(recipe)
    server_manager_instance.release_server(new)


async def test_many_requests_in_flight_do_not_lose_rows_on_lite(lite, connect, name):
    # Lite's own notes call writers of one collection unsafe side by side.
    recipe = plain(8000)
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name, BackupParams(compression_enabled=False))
        lite.client.drop_collection(name)
        params = RestoreParams(max_requests_in_flight=8, batch_rows=100, load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert read_all(lite.client, name) == expected(recipe)


async def test_a_collection_that_lite_opened_twice_is_loaded_again(lite, connect, name, monkeypatch):
    # After a renaming, two clients that ask in the same moment each make Lite open the collection: one of the two is
    # loaded, the other is used from then on. Here every first loading after a renaming is lost that way.
    from milvus_lite.db import MilvusLite
    from milvus_lite.engine.collection import Collection

    create(lite.client, name, plain(20))
    lost: list[str] = []
    rename, load = MilvusLite.rename_collection, Collection.load

    def renaming(self, old, new, *args, **settings):
        rename(self, old, new, *args, **settings)
        lost.append(new)

    def loading(self):
        load(self)
        if self.name in lost:
            lost.remove(self.name)
            self.release()

    monkeypatch.setattr(MilvusLite, "rename_collection", renaming)
    monkeypatch.setattr(Collection, "load", loading)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        lite.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
    assert lost == []
    assert read_all(lite.client, name) == expected(plain(20))


async def test_a_relative_database_path_and_a_changed_folder(tmp_path, connect, name, monkeypatch, root):
    from milvus_lite.server_manager import server_manager_instance

    monkeypatch.chdir(tmp_path)
    create(MilvusClient("./here.db"), name, plain(20))
    async with connect("./here.db") as manager:
        os.chdir("/")
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
    assert leftovers(root) == []
    server_manager_instance.release_server(str(tmp_path / "here.db"))


async def test_the_embedded_server_logs_no_errors_into_the_users_process(lite, connect, name, caplog):
    # An RPC that Lite does not implement would print a traceback into a notebook, for it runs in the same process.
    create(lite.client, name, plain(50))
    caplog.clear()
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        lite.client.drop_collection(name)
        assert (await manager.restore_backup(backup.backup_id, name)).success
    assert [record.getMessage() for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")] == []
