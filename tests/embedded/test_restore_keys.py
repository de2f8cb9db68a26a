"""Primary keys that the server makes anew: the rows are proven without them, and a lost answer doubles none."""

from __future__ import annotations

import pytest
from pymilvus import DataType, FieldSchema

from milvault import BackupParams, RestoreParams, RestoreValidationError
from tests.backup_files import data_files, leftovers
from tests.recipes import Recipe, count, create, create_large, plain, read_all, vector_field, vector_of
from tests.servers.tcp_proxy import Proxy

pytestmark = pytest.mark.timeout(240)

EVERYWHERE = ["lite", "lite_tcp", pytest.param("server", marks=pytest.mark.server)]


def auto(count: int) -> Recipe:
    """Rows whose keys the server makes, in two partitions."""
    fields = [
        FieldSchema("id", DataType.INT64, is_primary=True, auto_id=True),
        FieldSchema("number", DataType.INT32),
        vector_field(),
    ]
    rows = [{"number": number, "vector": vector_of(number)} for number in range(count)]
    return Recipe(fields, rows, partition_of=lambda row: ["_default", "odd"][row["number"] % 2])


def without_keys(rows) -> list:
    return sorted((row["number"], row["vector"]) for row in rows.values())


@pytest.mark.parametrize("where", EVERYWHERE)
async def test_keys_are_made_anew_and_the_rows_are_proven_without_them(request, connect, name, root, where):
    milvus = request.getfixturevalue(where)
    create(milvus.client, name, auto(600))
    before = read_all(milvus.client, name)
    odd = without_keys(read_all(milvus.client, name, partitions=["odd"]))
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        params = RestoreParams(drop_existing=True, load_after_restore=True, auto_id="REGENERATE")
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert restored.verification_passed is True
    assert restored.rows_restored == 600
    assert "primary_keys" in restored.verification_details
    assert restored.verification_details["digest"] == restored.verification_details["expected_digest"]
    assert not [warning for warning in restored.warnings if "auto_id" in warning]
    after = read_all(milvus.client, name)
    assert without_keys(after) == without_keys(before)
    assert milvus.kind != "server" or not set(after) & set(before)  # Lite counts from 1 in each collection
    assert without_keys(read_all(milvus.client, name, partitions=["odd"])) == odd
    # Lite's trap: its counter has to be beyond all keys, or rows to come would overwrite these.
    milvus.client.insert(name, [{"number": 10_000 + number, "vector": vector_of(number)} for number in range(50)])
    assert count(milvus.client, name) == len(read_all(milvus.client, name)) == 650
    key = next(field for field in milvus.client.describe_collection(name)["fields"] if field["name"] == "id")
    assert key["auto_id"]
    assert leftovers(root) == []


async def test_keys_that_users_gave_are_not_made_anew(lite, connect, name):
    create(lite.client, name, plain(50))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        params = RestoreParams(target_collection_name=f"{name}_new", auto_id="REGENERATE")
        with pytest.raises(RestoreValidationError, match=r"(?s)'id'.*PRESERVE"):
            await manager.restore_backup(backup.backup_id, name, params)
    assert f"{name}_new" not in lite.client.list_collections()


async def test_changed_rows_are_found_though_their_keys_are_not_compared(lite, connect, name):
    # With the checksums not looked at, the digest in the file's footer tells: another backup's in place of this one's.
    create(lite.client, name, auto(200))
    async with connect(lite) as manager:
        plain_files = BackupParams(compression_enabled=False)
        backup = await manager.create_backup(name, plain_files)
        lite.client.drop_collection(name)
        other = auto(200)
        for row in other.rows:
            row["number"] += 1
        create(lite.client, name, other)
        changed = await manager.create_backup(name, plain_files)
        for file, donor in zip(data_files(backup.storage_path), data_files(changed.storage_path), strict=True):
            assert donor.stat().st_size == file.stat().st_size, "of another size, it is refused for that alone"
            file.write_bytes(donor.read_bytes())
        params = RestoreParams(target_collection_name=f"{name}_new", auto_id="REGENERATE", verify_before_restore=False)
        restored = await manager.restore_backup(backup.backup_id, name, params)
    assert not restored.success
    assert "data/_default-00000.parquet is not the file that the chunk table describes" in restored.error_message
    assert lite.staging() == []


@pytest.mark.parametrize("policy", ["PRESERVE", "REGENERATE"])
async def test_an_answer_that_is_lost_neither_loses_nor_doubles_rows(lite_tcp, connect, name, root, policy):
    rows = 10_000
    if policy == "PRESERVE":
        create_large(lite_tcp.uri, name, rows, 64)
    else:
        create(lite_tcp.client, name, auto(rows))
    proxy = Proxy(lite_tcp.uri)
    cuts = []

    def cut(progress) -> None:
        if progress.phase == "inserting" and len(cuts) < 2 and progress.rows_processed > len(cuts) * rows // 4:
            cuts.append(progress.rows_processed)
            proxy.cut()

    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
    try:
        async with connect(proxy.uri, progress_poll_interval=0.001) as manager:
            params = RestoreParams(
                target_collection_name=f"{name}_new", auto_id=policy, load_after_restore=True, batch_rows=500
            )
            restored = await manager.restore_backup(backup.backup_id, name, params, progress=cut)
            assert restored.success, restored.error_message
    finally:
        proxy.close()
    assert cuts
    assert restored.verification_passed is True
    assert count(lite_tcp.client, f"{name}_new") == rows
    assert lite_tcp.staging() == []
    assert leftovers(root) == []
