"""The moment that a native backup shows, where Milvus's compaction does not come to rest."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from milvault import BackupError, BackupParams, PartitionNotFoundError
from tests.conftest import Milvus
from tests.faults.proxy import Call, proxy_to
from tests.recipes import create, plain

pytestmark = [pytest.mark.server]


@pytest.mark.parametrize("replaced", [1, 8])
async def test_a_moment_is_tried_as_long_as_compaction_replaces_segments(replaced, server, native, name):
    """Segments are named before the first flush that are gone after the second, so many times in a row."""
    create(server.client, name, plain(60))
    flushes, lock = 0, threading.Lock()

    def flush(call: Call) -> bytes:
        nonlocal flushes
        with lock:
            flushes += 1
        return call.forward()

    def one_more(call: Call) -> bytes:
        told = milvus_pb2.GetPersistentSegmentInfoResponse.FromString(call.forward())
        with lock:
            tried, half = divmod(flushes, 2)
        if not half and tried < replaced:
            told.infos.add(segmentID=10_000 + tried, num_rows=1, state=common_pb2.SegmentState.Flushed)
        return told.SerializeToString()

    with proxy_to(server.uri) as proxy:
        proxy.add("Flush", flush, times=None)
        proxy.add("GetPersistentSegmentInfo", one_more, times=None)
        async with native(milvus=Milvus(proxy.uri, "server", server.client)) as manager:
            made = await manager.create_backup(name)
    made.raise_for_error()
    assert made.row_count == 60
    assert flushes == 2 * (replaced + 1)


async def test_what_one_collections_flush_wrote_is_known_before_the_next_is_flushed(server, native, name):
    """A segment that a flush wrote is replaced while another collection is flushed: its rows may be gone."""
    names = [f"{name}_{letter}" for letter in "ab"]
    for one in names:
        create(server.client, one, plain(60))
    flushed: list[str] = []

    def flush(call: Call) -> bytes:
        answer = call.forward()
        flushed.extend(milvus_pb2.FlushRequest.FromString(call.request).collection_names)
        return answer

    def one_more(call: Call) -> bytes:
        told = milvus_pb2.GetPersistentSegmentInfoResponse.FromString(call.forward())
        if flushed == names[:1]:
            told.infos.add(segmentID=10_000, num_rows=1, state=common_pb2.SegmentState.Flushed)
        return told.SerializeToString()

    with proxy_to(server.uri) as proxy:
        proxy.add("Flush", flush, times=None)
        proxy.add("GetPersistentSegmentInfo", one_more, times=None)
        async with native(milvus=Milvus(proxy.uri, "server", server.client)) as manager:
            made = await manager.create_backups(names)
    made.raise_for_error()
    assert [backup.row_count for backup in made.backups] == [60, 60]
    assert flushed[:8] == names * 4  # two flushes of each, and the same again


async def test_what_is_seen_while_segments_are_written_must_still_be_there(server, native, name):
    """Compaction replaces a segment that was seen only after the second flush, while another one is being written."""
    create(server.client, name, plain(60))
    flushes, seen = 0, 0

    def flush(call: Call) -> bytes:
        nonlocal flushes
        flushes += 1
        return call.forward()

    def one_more(call: Call) -> bytes:
        nonlocal seen
        told = milvus_pb2.GetPersistentSegmentInfoResponse.FromString(call.forward())
        if flushes == 2:
            seen += 1
            if seen in (2, 3):
                told.infos.add(segmentID=10_000, num_rows=1, state=common_pb2.SegmentState.Sealed)
            if seen == 3:
                told.infos.add(segmentID=10_001, num_rows=1, state=common_pb2.SegmentState.Flushed)
        return told.SerializeToString()

    with proxy_to(server.uri) as proxy:
        proxy.add("Flush", flush, times=None)
        proxy.add("GetPersistentSegmentInfo", one_more, times=None)
        async with native(milvus=Milvus(proxy.uri, "server", server.client)) as manager:
            made = await manager.create_backup(name)
    made.raise_for_error()
    assert made.row_count == 60
    assert flushes == 4


@pytest.mark.parametrize("storage_type", ["MILVUS_NATIVE", "LOCAL_FILE"])
async def test_a_partition_that_is_made_before_the_moment_belongs_to_it(storage_type, server, native, name):
    create(server.client, name, plain(60))
    made: list[str] = []

    def flush(call: Call) -> bytes:
        if not made:
            made.append("late")
            server.client.create_partition(name, "late")
            server.client.insert(name, list(plain(20, start=1000).rows), partition_name="late")
        return call.forward()

    with proxy_to(server.uri) as proxy:
        proxy.add("Flush", flush, times=None)
        async with native(milvus=Milvus(proxy.uri, "server", server.client)) as manager:
            backup = await manager.create_backup(name, BackupParams(storage_type=storage_type, source="auto"))
            backup.raise_for_error()
            assert made
            assert backup.metadata.snapshot["kind"] == "snapshot"
            assert backup.row_count == 80
            assert "late" in backup.metadata.partition_names
            with await manager.open_backup(backup.backup_id, columns=["id"], partition_names=["late"]) as reader:
                assert sorted(pa.table(reader)["id"].to_pylist()) == list(range(1000, 1020))


async def test_a_partition_that_is_dropped_before_its_set_gets_to_it_ends_the_member(server, native, name):
    names = [f"{name}_{letter}" for letter in "ab"]
    for one in names:
        create(server.client, one, plain(60), load=False)
    server.client.create_partition(names[1], "early")
    server.client.insert(names[1], list(plain(20, start=1000).rows), partition_name="early")
    seen: list[str] = []

    def watch(progress: object) -> None:
        # The first member is being copied: the moment of both is taken.
        if not seen and getattr(progress, "phase", "") in ("writing", "counting", "verifying", "done"):
            seen.append("dropped")
            server.client.drop_partition(names[1], "early")

    async with native(progress_poll_interval=0.01) as manager:
        made = await manager.create_backups(names, progress=watch)
        assert seen
        [first, second] = made.backups
        first.raise_for_error()
        assert first.row_count == 60
        with pytest.raises(BackupError, match=r"'early'.*dropped.*or the set, again"):
            second.raise_for_error()


@pytest.mark.parametrize("chosen", [[], ["early"]], ids=["all", "chosen"])
async def test_where_a_partition_is_dropped_while_the_moment_is_looked_for_it_is_one_without_it(
    chosen, server, native, name
):
    create(server.client, name, plain(60), load=False)
    server.client.create_partition(name, "early")
    server.client.insert(name, list(plain(20, start=1000).rows), partition_name="early")
    flushes = 0

    def flush(call: Call) -> bytes:
        nonlocal flushes
        flushes += 1
        if flushes == 2:
            server.client.drop_partition(name, "early")
        return call.forward()

    how = BackupParams(partition_names=chosen, backup_type="PARTITION" if chosen else "FULL_COLLECTION")
    with proxy_to(server.uri) as proxy:
        proxy.add("Flush", flush, times=None)
        async with native(milvus=Milvus(proxy.uri, "server", server.client)) as manager:
            if chosen:
                with pytest.raises(PartitionNotFoundError, match="early"):
                    await manager.create_backup(name, how)
                assert list(await manager.list_backups(name)) == []
                return
            made = await manager.create_backup(name, how)
    made.raise_for_error()
    assert (made.row_count, made.metadata.partition_names) == (60, ["_default"])
    assert flushes == 4  # the first moment was one that it may have had rows at


@pytest.mark.parametrize("code", [600, 0], ids=["by code", "by text"])
async def test_segments_are_listed_again_where_one_goes_while_the_server_looks_them_up(code, server, native, name):
    """2.3.5 looks up one segment after the other, and answers that there is none where compaction was faster."""
    create(server.client, name, plain(60))
    gone = 0

    def listing(call: Call) -> bytes:
        nonlocal gone
        gone += 1
        if gone % 3:
            status = common_pb2.Status(error_code=1, code=code, reason="segment not found[segment=7]")
            return milvus_pb2.GetPersistentSegmentInfoResponse(status=status).SerializeToString()
        return call.forward()

    with proxy_to(server.uri) as proxy:
        proxy.add("GetPersistentSegmentInfo", listing, times=None)
        milvus = Milvus(proxy.uri, "server", server.client)
        async with native(milvus=milvus, retry_transient_errors=False) as manager:
            made = await manager.create_backup(name)
    made.raise_for_error()
    assert made.row_count == 60
