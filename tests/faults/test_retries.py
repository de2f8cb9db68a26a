"""Failures that pass are repeated as often as the settings say, permanent ones never; slow ones end in time."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from milvault import BackupError, BackupParams, BackupTimeoutError, RestoreParams, RestoreTimeoutError
from tests.backup_files import leftovers
from tests.conftest import SOAK
from tests.recipes import create, expected, partitioned, plain, read_all
from tests.servers.fault_proxy import Proxy
from tests.servers.milvus_lite import MilvusLiteServer

pytestmark = pytest.mark.faults

QUICK = {"retry_delay_seconds": 0.01}


@pytest.fixture
def proxy(lite_tcp):
    proxy = Proxy(lite_tcp.uri).start()
    yield proxy
    proxy.stop()


@pytest.fixture
def collection(lite_tcp, name):
    create(lite_tcp.client, name, plain(300))
    return name


@pytest.mark.parametrize("method", ["Connect", "DescribeCollection", "ShowPartitions", "Query"])
async def test_a_failure_that_passes_is_repeated(proxy, connect, collection, method):
    async with connect(proxy.uri, **QUICK) as manager:
        calm = await manager.create_backup(collection)
        calls = proxy.calls[method]
    proxy.fail(method, grpc.StatusCode.UNAVAILABLE, 3)
    async with connect(proxy.uri, max_retries=3, **QUICK) as manager:
        result = await manager.create_backup(collection)
    assert result.success, result.error_message
    assert result.row_count == calm.row_count == 300
    assert proxy.calls[method] == 2 * calls + 3


async def test_a_failure_that_lasts_is_repeated_as_often_as_the_settings_say(proxy, connect, collection, root):
    proxy.fail("Query", grpc.StatusCode.UNAVAILABLE, 1000)
    for settings, attempts in (
        ({"max_retries": 2}, 3),
        ({"max_retries": 0}, 1),
        ({"max_retries": 5, "retry_transient_errors": False}, 1),
    ):
        proxy.calls.clear()
        async with connect(proxy.uri, **settings, **QUICK) as manager:
            result = await manager.create_backup(collection)
        assert isinstance(result.error, BackupError)
        assert result.error.temporary
        assert proxy.uri in result.error_message
        assert proxy.calls["Query"] == attempts
    assert leftovers(root) == []


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED]
)
async def test_a_permanent_failure_is_told_at_once(proxy, connect, collection, root, code):
    proxy.fail("Query", code, 1000)
    async with connect(proxy.uri, max_retries=5, retry_delay_seconds=600) as manager:
        result = await manager.create_backup(collection)
    assert isinstance(result.error, BackupError)
    assert not result.error.temporary
    assert proxy.calls["Query"] == 1
    assert leftovers(root) == []


async def test_a_restore_repeats_too_and_every_row_arrives_once(proxy, lite_tcp, connect, collection):
    async with connect(proxy.uri, **QUICK) as manager:
        backup = await manager.create_backup(collection)
        lite_tcp.client.drop_collection(collection)
        for method in ("CreateCollection", "Insert", "LoadCollection"):
            proxy.fail(method, grpc.StatusCode.UNAVAILABLE, 1)
        restored = await manager.restore_backup(
            backup.backup_id, collection, RestoreParams(batch_rows=50, load_after_restore=True)
        )
    assert restored.success, restored.error_message
    assert restored.verification_passed is True
    assert read_all(lite_tcp.client, collection) == expected(plain(300))


async def test_a_server_that_comes_late_is_waited_for(connect, name, tmp_path):
    server = MilvusLiteServer(tmp_path / "late")
    async with connect(server.uri, max_retries=100, retry_delay_seconds=0.2) as manager:
        waiting = asyncio.create_task(manager.collection_manager.list_collections())
        backup = asyncio.create_task(manager.create_backup(name, timeout=120))
        await asyncio.sleep(1)
        assert not waiting.done()
        assert not backup.done()
        try:
            await asyncio.to_thread(server.start)
            # It is there now, and has no such collection: an answer, and so no reason to ask again.
            with pytest.raises(Exception, match=name):
                (await backup).raise_for_error()
            assert await waiting == []
        finally:
            await asyncio.to_thread(server.stop)


async def test_a_name_that_nobody_knows_is_told_at_once(connect, name):
    async with connect("http://no-such-host.invalid:19530", max_retries=5, retry_delay_seconds=600) as manager:
        result = await manager.create_backup(name)
    assert isinstance(result.error, BackupError)
    assert "no-such-host.invalid" in result.error_message


@pytest.mark.parametrize("at_most", [1, 2, 4])
async def test_no_more_is_read_at_once_than_the_settings_say(proxy, lite_tcp, connect, name, at_most):
    create(lite_tcp.client, name, partitioned(900))
    proxy.delays["rows"] = 0.5  # long enough for all that may run at once to do so
    async with connect(proxy.uri, max_concurrent_chunks=at_most) as manager:
        result = await manager.create_backup(name)
    assert result.row_count == 900
    assert result.metadata.segment_count == 3
    assert proxy.most_at_once["rows"] == min(at_most, 3)


async def test_the_configs_timeouts_hold_where_a_call_gives_none(lite_tcp, connect, collection, root):
    slow = {"bandwidth_limit_mib": 0.001}
    async with connect(lite_tcp) as manager:
        whole = await manager.create_backup(collection)
    async with connect(lite_tcp, default_backup_timeout=0.4, default_restore_timeout=0.4, **slow) as manager:
        backup = await manager.create_backup(collection)
        restored = await manager.restore_backup(
            whole.backup_id, collection, RestoreParams(target_collection_name=f"{collection}_copy")
        )
        # One that the call gives goes before them, and so does its own limit.
        free = await manager.create_backup(collection, BackupParams(bandwidth_limit_mib=None), timeout=60)
    assert isinstance(backup.error, BackupTimeoutError)
    assert isinstance(restored.error, RestoreTimeoutError)
    # Only its verification, which has the config's limit, is what `free` may be slow in.
    assert free.success, free.error_message
    assert lite_tcp.staging() == []
    assert f"{collection}_copy" not in lite_tcp.client.list_collections()
    assert leftovers(root) == []


async def test_time_that_runs_out_while_a_backup_is_verified_leaves_nothing_of_it(lite_tcp, connect, collection, root):
    async with connect(lite_tcp, auto_verify_after_backup=False) as manager:
        whole = await manager.create_backup(collection)
        size = whole.metadata.compressed_size_bytes
    # Writing takes a second, reading it back another.
    limit = size / 2**20
    async with connect(lite_tcp, bandwidth_limit_mib=limit) as manager:
        began = time.monotonic()
        result = await manager.create_backup(collection, timeout=1.5)
        assert time.monotonic() - began < 20
        assert isinstance(result.error, BackupTimeoutError)
        assert [each.backup_id for each in await manager.list_backups(collection)] == [whole.backup_id]
    assert leftovers(root) == []


async def test_a_staging_collection_that_is_made_late_does_not_outlive_a_stopped_restore(
    proxy, lite_tcp, connect, collection, root
):
    async with connect(proxy.uri, **QUICK) as manager:
        backup = await manager.create_backup(collection)
        params = RestoreParams(target_collection_name=f"{collection}_copy")
        proxy.delays["CreateCollection"] = 0.7
        task = asyncio.create_task(manager.restore_backup(backup.backup_id, collection, params))
        while not proxy.calls["CreateCollection"]:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert lite_tcp.staging() == []
        assert leftovers(root) == []


@pytest.mark.skipif(not SOAK, reason="takes fifteen seconds of waiting; `make soak` has them")
async def test_what_a_stopped_restore_could_not_wait_for_is_swept_by_the_next_run(
    proxy, lite_tcp, connect, collection, root
):
    async with connect(proxy.uri, **QUICK) as manager:
        backup = await manager.create_backup(collection)
        params = RestoreParams(target_collection_name=f"{collection}_copy")
        proxy.delays["CreateCollection"] = 12.0
        result = await manager.restore_backup(backup.backup_id, collection, params, timeout=1.5)
        assert isinstance(result.error, RestoreTimeoutError)
        await asyncio.sleep(4)
        proxy.delays.clear()
        assert len(lite_tcp.staging()) == proxy.calls["CreateCollection"] == 1
        assert (await manager.restore_backup(backup.backup_id, collection, params)).success
        assert lite_tcp.staging() == []
        assert leftovers(root) == []
