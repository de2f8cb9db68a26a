"""Restored rows are proven by what the server has written, where its files can be read: nothing is loaded for that."""

from __future__ import annotations

from pathlib import Path

import pytest
from pymilvus.grpc_gen import milvus_pb2

from milvault import BackupParams, BackupStorageType, RestoreError, RestoreParams
from tests.backup_files import leftovers
from tests.conftest import Milvus
from tests.embedded.test_restore_keys import auto, without_keys
from tests.faults.proxy import Call, lose_the_answer, proxy_to
from tests.recipes import RECIPES, create, partition_key, plain, read_all

pytestmark = [pytest.mark.server]

PARQUET = {"default_storage_type": BackupStorageType.LOCAL_FILE}


async def back(manager, server: Milvus, name: str, *, source: str = "auto", **params) -> bool:
    """Backs up, restores beside the original, proven; whether the server had to load the rows for that."""
    made = await manager.create_backup(name, BackupParams(source=source))
    made.raise_for_error()
    params = RestoreParams(target_collection_name=f"{name}_back", via="INSERT", **params)
    restored = await manager.restore_backup(made.backup_id, name, params)
    restored.raise_for_error()
    assert restored.verification_passed
    assert restored.verification_details["digest"] == restored.verification_details["expected_digest"]
    assert str(server.client.get_load_state(f"{name}_back")["state"]) == "NotLoad"
    server.client.load_collection(f"{name}_back")
    return "loading" in restored.timings


@pytest.mark.parametrize("storage", [{}, PARQUET], ids=["native", "parquet"])
@pytest.mark.parametrize("kind", ["every_scalar", "every_array", "partitioned", "partition_key"])
async def test_inserted_rows_are_proven_with_nothing_loaded(kind, storage, server, native, name):
    create(server.client, name, {**RECIPES, "partition_key": partition_key}[kind]())
    living = read_all(server.client, name)
    async with native(**storage) as manager:
        assert not await back(manager, server, name)
    assert read_all(server.client, f"{name}_back") == living


async def test_rows_whose_keys_are_made_anew_are_too(server, native, name):
    create(server.client, name, auto(400))
    living = read_all(server.client, name)
    async with native(**PARQUET) as manager:
        assert not await back(manager, server, name, auto_id="REGENERATE")
    assert without_keys(read_all(server.client, f"{name}_back")) == without_keys(living)


async def test_where_the_files_are_not_in_sight_rows_are_loaded_and_read(server, native, name, tmp_path: Path):
    create(server.client, name, plain(300))
    (tmp_path / "not the server's").mkdir()
    async with native(**PARQUET, milvus_storage=str(tmp_path / "not the server's")) as manager:
        assert await back(manager, server, name, source="query")
    assert read_all(server.client, f"{name}_back") == read_all(server.client, name)


@pytest.mark.parametrize("policy", ["PRESERVE", "REGENERATE"])
async def test_while_a_request_may_still_arrive_rows_are_loaded_and_read(policy, server, native, name):
    create(server.client, name, plain(300) if policy == "PRESERVE" else auto(300))
    living = read_all(server.client, name)
    with proxy_to(server.uri) as proxy:
        lost = proxy.add("Insert", lose_the_answer())
        through = Milvus(proxy.uri, "server", server.client)
        async with native(**PARQUET, milvus=through) as manager:
            assert await back(manager, server, name, auto_id=policy)
        assert lost.struck == 1
    found = read_all(server.client, f"{name}_back")
    assert found == living if policy == "PRESERVE" else without_keys(found) == without_keys(living)


async def test_rows_that_a_server_says_it_took_and_has_not_are_missed(server, native, name, root: Path):
    create(server.client, name, plain(300))

    def swallow(call: Call) -> bytes:
        rows = milvus_pb2.InsertRequest.FromString(call.request).num_rows
        return milvus_pb2.MutationResult(insert_cnt=rows, succ_index=range(rows)).SerializeToString()

    with proxy_to(server.uri) as proxy:
        swallowed = proxy.add("Insert", swallow)
        through = Milvus(proxy.uri, "server", server.client)
        async with native(**PARQUET, milvus=through) as manager:
            made = await manager.create_backup(name)
            params = RestoreParams(target_collection_name=f"{name}_back", via="INSERT", batch_rows=100)
            restored = await manager.restore_backup(made.backup_id, name, params)
        assert swallowed.struck == 1
    assert isinstance(restored.error, RestoreError)
    assert "200 rows" in restored.error_message
    assert not server.client.has_collection(f"{name}_back")
    assert (server.staging(), leftovers(root)) == ([], [])
