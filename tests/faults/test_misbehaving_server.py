"""A server that misbehaves: refuses, forgets to answer, stalls, sheds load, restarts, hides rows.

A real server stands behind a proxy that puts the faults in. What is asked ends right, or with a typed error that names
the fault; nothing is left behind, and no backup is short.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable

import grpc
import pytest
from pymilvus import MilvusClient
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from milvault import (
    BackupError,
    BackupManager,
    BackupRecoveryConfig,
    ConnectionManager,
    RestoreError,
    RestoreParams,
)
from tests.backup_files import leftovers, rows_of
from tests.conftest import SOAK
from tests.faults.proxy import Fault, answer, change, first, hold, lose_the_answer, proxy_to, refuse
from tests.faults.relay import Relay
from tests.recipes import Recipe, count, create, expected, partitioned, plain, read_all, vector_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

RATE_LIMITED = {"code": 8, "error_code": 49, "reason": "request is rejected by grpc RateLimiter middleware: rate limit"}
BROKEN = {"code": 65535, "error_code": 1, "reason": "segment 42 cannot be read"}
DISK_QUOTA = {"code": 9, "error_code": 57, "reason": "quota exceeded[reason=disk quota exceeded]"}


def status(**fields) -> common_pb2.Status:
    return common_pb2.Status(**fields)


def rows_query(request: bytes) -> bool:
    """Whether it asks for rows, not for their number."""
    return list(milvus_pb2.QueryRequest.FromString(request).output_fields) != ["count(*)"]


def counting(request: bytes) -> bool:
    """Whether it asks for the number of all rows, as before and after a read; a search for duplicates counts ranges."""
    return not rows_query(request) and b" <= " not in request and b" > " not in request and b"==" not in request


@pytest.fixture(params=["lite_tcp", pytest.param("server", marks=pytest.mark.server)])
def milvus(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def proxy(milvus):
    with proxy_to(milvus.address) as proxy:
        yield proxy


@pytest.fixture
def through(root):
    """Makes managers that reach a server by way of `uri`, and that are quick to try again."""

    def make(uri: str, *, deadline: float = 20.0, **settings) -> BackupManager:
        config = BackupRecoveryConfig(
            local_backup_root_path=str(root), **{"retry_delay_seconds": 0.05, "max_retries": 3, **settings}
        )
        return BackupManager(ConnectionManager(uri, request_timeout_seconds=deadline), config=config)

    return make


async def backed_up(manager, name, root, recipe: Recipe):
    """A backup that holds every row, and nothing beside it."""
    result = await manager.create_backup(name)
    assert result.success, result.error_message
    assert rows_of(result.storage_path, recipe) == expected(recipe)
    assert leftovers(root) == []
    return result


async def no_backup(manager, name, root) -> BackupError:
    """The error of a backup that was not made; nothing stays of it."""
    before = await manager.list_backups(name)
    result = await manager.create_backup(name)
    assert not result.success
    assert isinstance(result.error, BackupError)
    assert leftovers(root) == []
    assert await manager.list_backups(name) == before
    return result.error


async def restored(manager, milvus, name, root, backup, recipe: Recipe, **params):
    """A restore in place of the collection that brings back each row, once."""
    params = RestoreParams(drop_existing=True, load_after_restore=True, **params)
    result = await manager.restore_backup(backup.backup_id, name, params)
    assert result.success, result.error_message
    assert result.verification_passed is True
    assert read_all(milvus.client, name) == expected(recipe)
    assert count(milvus.client, name) == len(recipe.rows)
    assert milvus.staging() == []
    assert leftovers(root) == []
    return result


async def not_restored(manager, milvus, name, root, backup, **params) -> RestoreError:
    """The error of a restore that failed; the collection is as it was, and nothing stays."""
    before = read_all(milvus.client, name)
    params = RestoreParams(drop_existing=True, **params)
    result = await manager.restore_backup(backup.backup_id, name, params)
    assert not result.success
    assert isinstance(result.error, RestoreError)
    assert read_all(milvus.client, name) == before
    assert milvus.staging() == []
    assert leftovers(root) == []
    return result.error


# Backups.


async def test_an_error_for_one_partition_fails_the_backup_and_is_told(milvus, proxy, through, name, root):
    recipe = partitioned()
    create(milvus.client, name, recipe)

    def of_spring(request: bytes) -> bool:
        return rows_query(request) and b"spring" in request

    broken = answer(milvus_pb2.QueryResults(status=status(**BROKEN)))
    fault = proxy.add("Query", broken, when=of_spring, times=None)
    async with through(proxy.uri) as manager:
        error = await no_backup(manager, name, root)
        assert "segment 42 cannot be read" in str(error)
        assert fault.struck
        fault.times = 0
        await backed_up(manager, name, root, recipe)


@pytest.mark.parametrize("act", [refuse(), lose_the_answer()], ids=["refused", "answer lost"])
async def test_a_backup_survives_the_loss_of_any_one_call(milvus, proxy, through, name, root, act):
    recipe = partitioned()
    create(milvus.client, name, recipe)
    async with through(proxy.uri) as manager:
        await backed_up(manager, name, root, recipe)
        for method in sorted(set(proxy.calls) - {"Connect", "GetVersion"}):
            fault = proxy.add(method, act)
            await backed_up(manager, name, root, recipe)
            assert fault.struck, method


@pytest.mark.parametrize(
    "limit",
    [
        answer(milvus_pb2.QueryResults(status=status(**RATE_LIMITED))),
        refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "request is rejected: rate limit exceeded"),
    ],
    ids=["status", "grpc"],
)
async def test_a_backup_waits_out_a_rate_limit(milvus, proxy, through, name, root, limit):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    fault = proxy.add("Query", limit, when=rows_query, times=7)
    async with through(proxy.uri, retry_delay_seconds=0.01) as manager:
        await backed_up(manager, name, root, recipe)
        assert fault.struck == 7
        fault.times = None
        assert "rate limit" in str(await no_backup(manager, name, root)).lower()


async def test_a_slow_server_is_waited_for(milvus, proxy, through, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    for method in ("Query", "DescribeCollection", "ShowPartitions"):
        proxy.add(method, hold(0.4), times=None)
    async with through(proxy.uri, deadline=5.0) as manager:
        await backed_up(manager, name, root, recipe)


async def test_a_page_that_stalls_past_the_deadline_is_asked_for_again(milvus, proxy, through, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    fault = proxy.add("Query", hold(60), when=rows_query)
    async with through(proxy.uri, deadline=1.5) as manager:
        await backed_up(manager, name, root, recipe)
        assert fault.struck == 1
        fault.times = None
        began = time.monotonic()
        error = await no_backup(manager, name, root)
        assert "did not answer in time" in str(error)
        assert time.monotonic() - began < 50


async def test_connections_that_break_or_die_in_the_middle_are_replaced(milvus, through, name, root):
    recipe = plain(3_000)
    create(milvus.client, name, recipe)
    relay = Relay(milvus.address)
    try:
        async with through(relay.uri, deadline=2.0) as manager:
            await backed_up(manager, name, root, recipe)
            relay.cut_after(40_000)  # in the middle of a page
            await backed_up(manager, name, root, recipe)
            assert relay.cuts == 1
            before = relay.connections
            relay.go_silent()  # as when the other machine has lost power: nobody says that the connection is gone
            await backed_up(manager, name, root, recipe)
            assert relay.connections > before
    finally:
        relay.stop()


def hiding(keys: Iterable[int]):
    """An edit that leaves rows out of an answer, for collections made by `plain`."""
    hidden = set(keys)

    def edit(reply: bytes) -> bytes:
        results = milvus_pb2.QueryResults.FromString(reply)
        columns = {column.field_name: column for column in results.fields_data}
        if "id" not in columns:
            return reply
        ids = list(columns["id"].scalars.long_data.data)
        keep = [at for at, key in enumerate(ids) if key not in hidden]
        columns["id"].scalars.long_data.data[:] = [ids[at] for at in keep]
        if "vector" in columns:
            dim = columns["vector"].vectors.dim
            values = list(columns["vector"].vectors.float_vector.data)
            kept = [value for at in keep for value in values[at * dim : (at + 1) * dim]]
            columns["vector"].vectors.float_vector.data[:] = kept
        return results.SerializeToString()

    return edit


def adding(rows: int):
    """An edit that counts more rows than there are."""

    def edit(reply: bytes) -> bytes:
        results = milvus_pb2.QueryResults.FromString(reply)
        results.fields_data[0].scalars.long_data.data[0] += rows
        return results.SerializeToString()

    return edit


async def test_rows_that_a_read_left_out_are_fetched_by_the_next(milvus, proxy, through, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    fault = proxy.add("Query", change(hiding(range(100, 300))), when=rows_query, times=1)
    async with through(proxy.uri) as manager:
        # A page without its end is no loss: the next one begins after the last key that came.
        await backed_up(manager, name, root, recipe)
        assert fault.struck == 1
        fault.act, fault.struck = change(hiding([7, 8, 9])), 0
        await backed_up(manager, name, root, recipe)
        assert fault.struck == 1


@pytest.mark.parametrize("writers", [False, True], ids=["steady", "counts differ"])
async def test_rows_that_no_read_shows_fail_the_backup_writers_or_not(milvus, proxy, through, name, root, writers):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    fault = proxy.add("Query", change(hiding([7, 8, 9])), when=rows_query, times=None)
    if writers:
        # Every other count tells of five rows more, as if somebody wrote: no excuse for fewer rows than both counts.
        turn = iter(range(1_000))
        proxy.add("Query", lambda call: (adding(5) if next(turn) % 2 else bytes)(call.forward()), when=counting,
                  times=None)  # fmt: skip
    async with through(proxy.uri) as manager:
        error = await no_backup(manager, name, root)
    assert fault.struck >= 3
    for words in ("297 came", "300 to 305" if writers else "300 rows by the server's count", "incomplete"):
        assert words in str(error)


async def test_a_read_between_two_counts_is_a_backup_that_says_so(milvus, proxy, through, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    seen = iter(range(1_000))
    # The first two counts, for the space and before the read, tell of fewer rows than there are, as if rows came later.
    proxy.add("Query", lambda call: (adding(-5) if next(seen) < 2 else bytes)(call.forward()), when=counting,
              times=None)  # fmt: skip
    async with through(proxy.uri) as manager:
        result = await backed_up(manager, name, root, recipe)
    assert any("295 rows before, 300 after, 300 read" in warning for warning in result.warnings)
    assert result.metadata.to_dict()["snapshot"]["kind"] == "fuzzy"


@pytest.fixture(params=["own_lite_server", pytest.param("own_milvus_server", marks=pytest.mark.server)])
def own(request):
    return request.getfixturevalue(request.param)


async def test_a_server_that_restarts_during_a_scan_is_waited_for(own, through, name, root):
    recipe = plain(600)
    create(MilvusClient(own.uri), name, recipe)

    def restart() -> None:
        own.kill()
        own.start()

    with proxy_to(own.uri) as proxy:
        fault = proxy.add("Query", first(restart), when=rows_query)
        async with through(proxy.uri, deadline=100.0, max_retries=8, retry_delay_seconds=0.5) as manager:
            if own.kind == "server":
                await backed_up(manager, name, root, recipe)
            else:  # Lite has forgotten that the collection was loaded
                assert "call load()" in str(await no_backup(manager, name, root))
                await backed_up(manager, name, root, recipe)
        assert fault.struck == 1


# Restores.


@pytest.mark.parametrize("act", [refuse(), lose_the_answer()], ids=["refused", "answer lost"])
async def test_a_restore_survives_the_loss_of_any_one_call(milvus, proxy, through, name, root, act):
    recipe = partitioned()
    create(milvus.client, name, recipe)
    milvus.client.create_alias(name, f"{name}_alias")
    async with through(proxy.uri) as manager:
        backup = await backed_up(manager, name, root, recipe)
        proxy.calls.clear()
        await restored(manager, milvus, name, root, backup, recipe)
        methods = sorted(set(proxy.calls))
        assert {"CreateCollection", "CreatePartition", "Insert", "RenameCollection", "DropCollection"} <= set(methods)
        # One by one where that is quick; on a server in one go, in which every sort of call fails once.
        for group in [[method] for method in methods] if milvus.kind != "server" or SOAK else [methods]:
            faults = [proxy.add(method, act) for method in group]
            await restored(manager, milvus, name, root, backup, recipe)
            assert [fault.method for fault in faults if not fault.struck] == []
            assert milvus.client.list_aliases(name)["aliases"] == [f"{name}_alias"]


async def test_an_insert_whose_answer_is_lost_is_settled_by_its_keys(milvus, proxy, through, name, root):
    recipe = plain(899)
    recipe = Recipe(recipe.fields, [{"id": -(2**63), "vector": vector_of(7)}, *recipe.rows])
    create(milvus.client, name, recipe)
    async with through(proxy.uri, deadline=3.0) as manager:
        backup = await backed_up(manager, name, root, recipe)
        lost = proxy.add("Insert", lose_the_answer(), skip=1, times=3)
        late = proxy.add("Insert", hold(60, asked=True))  # taken, and answered long after the deadline
        proxy.calls.clear()
        await restored(manager, milvus, name, root, backup, recipe, batch_rows=100)
        assert (lost.struck, late.struck) == (3, 1)
        assert proxy.calls.count("Delete") >= 4


async def test_varchar_keys_of_every_kind_are_settled_too(milvus, proxy, through, name, root):
    from tests.recipes import awkward_strings

    recipe = awkward_strings(200)
    create(milvus.client, name, recipe)
    async with through(proxy.uri) as manager:
        backup = await backed_up(manager, name, root, recipe)
        proxy.add("Insert", lose_the_answer(), times=4)
        await restored(manager, milvus, name, root, backup, recipe, batch_rows=60)
        assert "Delete" in proxy.calls


async def test_an_insert_that_arrives_after_it_was_settled_is_not_there_twice(milvus, proxy, through, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    async with through(proxy.uri, deadline=1.0) as manager:
        backup = await backed_up(manager, name, root, recipe)
        again = threading.Event()

        def overtaken(call) -> bytes:
            again.wait(20)
            return call._ask(call.request)  # whoever asked is long gone

        def overtaking(call) -> bytes:
            reply = call.forward()
            again.set()
            time.sleep(0.5)
            return reply

        late = proxy.add("Insert", overtaken)
        proxy.add("Insert", overtaking)
        params = RestoreParams(drop_existing=True, load_after_restore=True)
        result = await manager.restore_backup(backup.backup_id, name, params)
        assert late.struck == 1
        if milvus.kind == "server":  # which keeps both rows of a key: the proof finds them, and nothing is swapped
            assert isinstance(result.error, RestoreError)
            assert "600 rows" in result.error_message
            assert "promises 300" in result.error_message
        else:
            assert result.success, result.error_message
    assert read_all(milvus.client, name) == expected(recipe)
    assert count(milvus.client, name) == 300
    assert milvus.staging() == []
    assert leftovers(root) == []


@pytest.mark.parametrize(
    "limit",
    [
        answer(milvus_pb2.MutationResult(status=status(**RATE_LIMITED))),
        refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "request is rejected: rate limit exceeded"),
    ],
    ids=["status", "grpc"],
)
async def test_a_restore_waits_out_a_rate_limit(milvus, proxy, through, name, root, limit):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    async with through(proxy.uri, retry_delay_seconds=0.01) as manager:
        backup = await backed_up(manager, name, root, recipe)
        fault = proxy.add("Insert", limit, times=10)
        await restored(manager, milvus, name, root, backup, recipe, batch_rows=100)
        assert fault.struck == 10
        assert "Delete" not in proxy.calls, "a refused insert is in no doubt"
        fault.times = None
        error = await not_restored(manager, milvus, name, root, backup)
        assert "rate limit" in str(error).lower()


async def test_a_server_that_takes_no_more_rows_fails_the_restore(milvus, proxy, through, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    full = answer(milvus_pb2.MutationResult(status=status(**DISK_QUOTA)))
    async with through(proxy.uri) as manager:
        backup = await backed_up(manager, name, root, recipe)
        fault = proxy.add("Insert", full, skip=1, times=None)
        error = await not_restored(manager, milvus, name, root, backup, batch_rows=100)
        assert "disk quota exceeded" in str(error)
        fault.times = 0
        await restored(manager, milvus, name, root, backup, recipe)


async def test_an_insert_that_never_goes_through_fails_the_restore(milvus, proxy, through, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)
    async with through(proxy.uri) as manager:
        backup = await backed_up(manager, name, root, recipe)
        proxy.add("Insert", lose_the_answer(), times=None)
        error = await not_restored(manager, milvus, name, root, backup)
    assert "could not be inserted for sure" in str(error)


async def test_rows_that_the_server_changes_fail_the_proof(milvus, proxy, through, name, root):
    recipe = plain(300)
    create(milvus.client, name, recipe)

    def with_another_vector(call) -> bytes:
        request = milvus_pb2.InsertRequest.FromString(call.request)
        for column in request.fields_data:
            if column.field_name == "vector":
                column.vectors.float_vector.data[:8] = vector_of(12_345)
        return call._ask(request.SerializeToString())

    async with through(proxy.uri) as manager:
        backup = await backed_up(manager, name, root, recipe)
        proxy.add("Insert", with_another_vector)
        error = await not_restored(manager, milvus, name, root, backup)
    assert "digest" in str(error)


async def test_the_proxy_is_transparent_and_counts_what_it_does(milvus, proxy, name):
    recipe = plain(20)
    client = MilvusClient(proxy.uri)
    create(client, name, recipe)
    fault = proxy.add("Query", refuse(grpc.StatusCode.INVALID_ARGUMENT, "on purpose"), skip=1)
    assert isinstance(fault, Fault)
    assert read_all(client, name) == expected(recipe)
    with contextlib.suppress(Exception):
        read_all(client, name)
    assert fault.struck == 1
    assert read_all(client, name) == expected(recipe)
