"""A deep verification: a trial restore into a temporary collection, which is gone however it ends."""

from __future__ import annotations

import asyncio
import time

import pytest
from pymilvus import CollectionSchema, DataType, FieldSchema

from milvault import BackupParams, BackupType, SchemaIncompatibleError, VerificationParams
from tests.backup_files import data_files, json_file, leftovers
from tests.conftest import STAGING
from tests.embedded.test_cancellation import Until
from tests.faults.processes import run_child
from tests.recipes import (
    RECIPES,
    count,
    create,
    create_large,
    dynamic,
    fill,
    key_field,
    partitioned,
    plain,
    vector_of,
)

pytestmark = pytest.mark.timeout(240)

DEEP = VerificationParams(verification_type="DEEP")


def at_phase(phase, act):
    """A progress sink that acts once, when the job is first seen in the phase."""
    acted = []

    def sink(progress) -> None:
        if progress.phase == phase and not acted:
            acted.append(progress)
            act()

    sink.acted = acted
    return sink


@pytest.mark.parametrize("recipe_name", ["every_scalar", "awkward_strings", "partitioned", "partition_key", "dynamic"])
async def test_a_good_backup_passes_and_the_temporary_collection_is_gone(milvus, connect, name, root, recipe_name):
    recipe = RECIPES[recipe_name]()
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        found = await manager.verify_backup(backup.backup_id, name, DEEP)
        listed = await manager.get_backup(backup.backup_id, name)
    assert found.success, found.errors
    assert (found.checksum_valid, found.deep_verification_passed) == (True, True)
    assert found.verification_type == "DEEP"
    assert found.files_verified > 0
    assert found.details["rows"] == len(recipe.rows)
    for partition in found.details["partitions"].values():
        assert partition["digest"] == partition["digest_found"]
        assert partition["rows"] == partition["rows_found"]
    assert found.details["original"]["compared"] is True
    for sort in ("only_in_backup", "only_in_original", "different"):
        assert found.details["original"]["differences"][sort] == {"rows": 0, "examples": []}
    assert found.warnings == []
    assert listed.is_verified
    assert json_file(backup.storage_path, "verification.json")["verification_type"] == "DEEP"
    assert milvus.staging() == []
    assert leftovers(root) == []
    assert count(milvus.client, name) == len(recipe.rows)


async def test_what_differs_from_the_original_is_told_with_keys_and_is_no_damage(milvus, connect, name, root):
    recipe = partitioned()
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.delete(name, filter="id < 30")
        changed = [{"id": key, "vector": vector_of(key + 9000)} for key in range(31, 298, 3)]  # all in "spring"
        milvus.client.upsert(name, changed, partition_name="spring")
        milvus.client.create_partition(name, "winter")
        milvus.client.insert(name, plain(7, start=10_000).rows, partition_name="winter")
        milvus.client.insert(name, plain(5, start=20_000).rows, partition_name="autumn")
        found = await manager.verify_backup(backup.backup_id, name, DEEP)
    assert found.success, found.errors
    assert found.deep_verification_passed is True
    differences = found.details["original"]["differences"]
    assert {sort: differences[sort]["rows"] for sort in differences} == {
        "only_in_backup": 30,
        "only_in_original": 12,
        "different": len(changed),
    }
    assert all(len(differences[sort]["examples"]) <= 10 for sort in differences)
    assert set(differences["only_in_backup"]["examples"]) <= set(range(30))
    assert differences["different"]["examples"] == [row["id"] for row in changed[:10]]
    assert found.details["original"]["partitions"]["winter"]["only_in_original"]["rows"] == 7
    assert found.details["original"]["partitions"]["autumn"]["only_in_original"]["examples"] == [*range(20_000, 20_005)]
    assert len(found.warnings) == 1
    assert "30 rows are only in the backup" in found.warnings[0]
    assert milvus.staging() == []
    assert leftovers(root) == []


async def test_many_rows_over_many_chunks_are_compared_in_key_order(lite_tcp, connect, name):
    create_large(lite_tcp.uri, name, 7_500, 256)
    async with connect(lite_tcp, default_chunk_size_mb=1) as manager:
        backup = await manager.create_backup(name)
        assert len(data_files(backup.storage_path)) > 5
        lite_tcp.client.delete(name, filter="id >= 7490")
        found = await manager.verify_backup(backup.backup_id, name, DEEP)
    assert found.success, found.errors
    assert found.details["original"]["differences"]["only_in_backup"] == {
        "rows": 10,
        "examples": [*range(7_490, 7_500)],
    }


async def test_without_the_original_the_backup_is_proven_all_the_same(milvus, connect, name):
    create(milvus.client, name, plain(300))
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        milvus.client.drop_collection(name)
        found = await manager.verify_backup(backup.backup_id, name, DEEP)
        assert found.deep_verification_passed is True
        assert (found.details["original"]["exists"], found.details["original"]["compared"]) == (False, False)
        assert found.warnings == []
        # Another collection under its name cannot be compared row by row.
        create(milvus.client, name, dynamic())
        other = await manager.verify_backup(backup.backup_id, name, DEEP)
    assert other.success
    assert (other.details["original"]["exists"], other.details["original"]["compared"]) == (True, False)
    assert "$meta" in other.warnings[0]


async def test_an_original_that_is_not_loaded_is_left_so(server, connect, name):
    create(server.client, name, plain(300))
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
        server.client.release_collection(name)
        found = await manager.verify_backup(backup.backup_id, name, DEEP)
    assert found.details["original"]["compared"] is True
    assert server.client.get_load_state(name)["state"].name == "NotLoad"


async def test_a_backup_of_partitions_is_compared_with_those_alone(lite, connect, name):
    create(lite.client, name, partitioned())
    params = BackupParams(backup_type=BackupType.PARTITION, partition_names=["spring"])
    async with connect(lite) as manager:
        backup = await manager.create_backup(name, params)
        found = await manager.verify_backup(backup.backup_id, name, DEEP)
    assert found.success, found.errors
    assert list(found.details["original"]["partitions"]) == ["spring"]
    assert found.warnings == []


async def test_damage_is_found_before_anything_is_restored(lite, connect, name):
    create(lite.client, name, plain(500))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        file = data_files(backup.storage_path)[0]
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        phases = []
        found = await manager.verify_backup(
            backup.backup_id, name, DEEP, progress=lambda progress: phases.append(progress.phase)
        )
    assert not found.success
    assert (found.checksum_valid, found.deep_verification_passed) == (False, None)
    assert found.files_failed == [f"data/{file.name}"]
    assert "inserting" not in phases


async def test_rows_that_do_not_come_back_fail_the_verification_by_partition(lite_tcp, connect, name, root):
    # The fault: the server loses rows of the temporary collection before it is read back.
    create(lite_tcp.client, name, partitioned(3000))

    def lose() -> None:
        (temporary,) = lite_tcp.staging()
        lite_tcp.client.delete(temporary, filter="id in [1, 4, 7]")  # all three in "spring"

    async with connect(lite_tcp, progress_poll_interval=0.001) as manager:
        backup = await manager.create_backup(name)

        def sink(progress) -> None:
            if progress.phase in ("flushing", "indexing", "loading") and not lost:
                lost.append(progress.phase)
                lose()

        lost: list[str] = []
        for _ in range(5):
            found = await manager.verify_backup(backup.backup_id, name, DEEP, progress=sink)
            if lost:
                break
    assert lost
    assert not found.success
    assert (found.checksum_valid, found.deep_verification_passed) == (True, False)
    assert len(found.errors) == 1
    assert "partition spring" in found.errors[0]
    assert lite_tcp.staging() == []
    assert leftovers(root) == []


async def test_a_failure_in_the_middle_leaves_no_temporary_collection(lite_tcp, connect, name, root):
    # The fault: data files vanish after they were checked.
    create_large(lite_tcp.uri, name, 3_000, 640)
    async with connect(lite_tcp, default_chunk_size_mb=1) as manager:
        backup = await manager.create_backup(name)
        hidden = data_files(backup.storage_path)[-1]

        def hide() -> None:
            hidden.rename(hidden.with_suffix(".hidden"))

        sink = at_phase("inserting", hide)
        with pytest.raises(Exception, match=hidden.name) as failure:
            await manager.verify_backup(backup.backup_id, name, DEEP, progress=sink)
        assert failure.value.backup_id == backup.backup_id
        assert sink.acted
        assert lite_tcp.staging() == []
        hidden.with_suffix(".hidden").rename(hidden)
        assert leftovers(root) == []


@pytest.mark.parametrize("phase", ["inserting", "proving", "reading"])
async def test_canceling_leaves_no_temporary_collection(lite_tcp, connect, name, root, phase):
    create_large(lite_tcp.uri, name, 5_000, 512)
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
        until = Until(phase)
        task = asyncio.create_task(manager.verify_backup(backup.backup_id, name, DEEP, progress=until))
        await asyncio.wait_for(until.reached.wait(), 100)
        canceled_at = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.perf_counter() - canceled_at < 10
    assert lite_tcp.staging() == []
    assert leftovers(root) == []


@pytest.mark.parametrize("phase", ["inserting", "proving"])
@pytest.mark.parametrize("where", ["lite_tcp", pytest.param("server", marks=pytest.mark.server)])
async def test_the_next_run_drops_what_a_killed_one_left(request, connect, name, root, where, phase):
    milvus = request.getfixturevalue(where)
    create(milvus.client, name, plain(8000, dim=64))
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        job = {"operation": "verify", "uri": milvus.uri, "root": str(root), "collection": name}
        job |= {"backup": backup.backup_id, "params": {"verification_type": "DEEP"}}
        code, said = run_child(
            job | {"kill": {"phases": [phase, "cleaning", "reading"], "delay": 0.3 if where == "server" else 0.02}}
        )
        assert code == -9, said
        await asyncio.sleep(0.5)  # the server may still be at what the dead process asked for last
        if said["died_in"] == phase:
            assert milvus.staging(), "it died too early to leave anything"
        assert (await manager.create_backup(name)).success
        assert milvus.staging() == []
        assert leftovers(root) == []
        assert (await manager.verify_backup(backup.backup_id, name, DEEP)).deep_verification_passed is True


async def test_a_server_that_cannot_hold_the_schema_says_so_and_nothing_of_the_backup(server, lite, connect, name):
    fields = [key_field(), FieldSchema("bits", DataType.BINARY_VECTOR, dim=16)]
    server.client.create_collection(name, schema=CollectionSchema(fields), consistency_level="Strong")
    server.client.insert(name, [{"id": key, "bits": bytes([key, 1])} for key in range(50)])
    index = server.client.prepare_index_params()
    index.add_index("bits", index_type="BIN_FLAT", metric_type="HAMMING")
    server.client.create_index(name, index)
    server.client.load_collection(name)
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
        assert (await manager.verify_backup(backup.backup_id, name, DEEP)).deep_verification_passed is True
    async with connect(lite) as manager:
        lite.client.list_collections()
        with pytest.raises(SchemaIncompatibleError, match="bits") as failure:
            await manager.verify_backup(backup.backup_id, name, DEEP)
        assert failure.value.incompatibilities
        assert (await manager.get_backup(backup.backup_id, name)).is_verified
    assert [one for one in lite.client.list_collections() if STAGING.match(one)] == []


async def test_several_backups_of_a_collection_can_be_verified_at_once(lite_tcp, connect, name, root):
    create(lite_tcp.client, name, plain(3000))
    async with connect(lite_tcp) as manager:
        first = await manager.create_backup(name)
        fill(lite_tcp.client, name, plain(0), plain(10, start=5000).rows)
        second = await manager.create_backup(name)
        both = await asyncio.gather(
            manager.verify_backup(first.backup_id, name, DEEP), manager.verify_backup(second.backup_id, name, DEEP)
        )
    assert [found.deep_verification_passed for found in both] == [True, True]
    assert both[0].details["original"]["differences"]["only_in_original"]["rows"] == 10
    assert lite_tcp.staging() == []
    assert leftovers(root) == []
