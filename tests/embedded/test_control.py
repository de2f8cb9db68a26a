"""What a person can set and watch: chunk size, bandwidth, progress, stopping at any point."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from pathlib import Path

import pytest

from milvault import BackupInProgressError, BackupParams, ProgressStream, RestoreParams
from tests.backup_files import data_files, json_file, leftovers
from tests.conftest import SOAK
from tests.recipes import count, create, create_large, partitioned, plain

pytestmark = pytest.mark.timeout(300 if SOAK else 120)

MIB = 2**20


@pytest.fixture
def rows(lite_tcp, name):
    """3,000 rows of 1.5 KiB: 4.5 MiB of Arrow bytes that hardly shrink."""
    create_large(lite_tcp.uri, name, 3_000, 384)
    return 3_000


# Chunks


@pytest.mark.parametrize("chunk_size_mb", [1, 2, 256])
async def test_chunk_size_mb_bounds_each_file(lite_tcp, connect, name, rows, chunk_size_mb):
    async with connect(lite_tcp) as manager:
        result = await manager.create_backup(name, BackupParams(chunk_size_mb=chunk_size_mb))
    chunks = json_file(result.storage_path, "chunks.json")["chunks"]
    assert len(data_files(result.storage_path)) == len(chunks) == result.metadata.segment_count
    row_bytes = result.size_bytes / rows
    # Every file but the last is full, to the row.
    assert len(chunks) == -(-result.size_bytes // (chunk_size_mb * MIB))
    for chunk in chunks[:-1]:
        assert chunk_size_mb * MIB <= chunk["bytes"] <= chunk_size_mb * MIB + 2 * row_bytes
    assert sum(chunk["rows"] for chunk in chunks) == rows


# Bandwidth


async def test_a_bandwidth_limit_takes_at_least_the_time_that_it_implies(lite_tcp, connect, name, rows):
    async with connect(lite_tcp, auto_verify_after_backup=False) as manager:
        free = await manager.create_backup(name)
        moved = sum(file.stat().st_size for file in data_files(free.storage_path))
        seconds = 1.2
        limit = moved / MIB / seconds

        began = time.monotonic()
        limited = await manager.create_backup(name, BackupParams(bandwidth_limit_mib=limit))
        assert time.monotonic() - began >= 0.99 * seconds
        assert limited.success, limited.error_message
        assert limited.row_count == rows

        began = time.monotonic()
        params = RestoreParams(
            target_collection_name=f"{name}_copy", verify_before_restore=False, bandwidth_limit_mib=limit
        )
        restored = await manager.restore_backup(limited.backup_id, name, params)
        assert time.monotonic() - began >= 0.99 * seconds
        assert restored.success, restored.error_message
    async with connect(lite_tcp, bandwidth_limit_mib=limit) as manager:
        began = time.monotonic()
        assert (await manager.verify_backup(limited.backup_id, name)).success
        assert time.monotonic() - began >= 0.99 * seconds
        began = time.monotonic()
        assert (await manager.create_backup(name)).state == "VERIFIED"  # written, and read back
        assert time.monotonic() - began >= 2 * 0.99 * seconds


# Progress


async def test_progress_of_every_operation_grows_has_rate_and_time_left_and_ends_with_done(
    lite_tcp, connect, name, rows
):
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
    size = backup.metadata.compressed_size_bytes
    async with connect(lite_tcp, bandwidth_limit_mib=size / MIB / 2, progress_poll_interval=0.1) as manager:
        params = RestoreParams(target_collection_name=f"{name}_copy", verify_before_restore=False)
        operations = {
            "backup": lambda sink: manager.create_backup(name, progress=sink),
            "verify": lambda sink: manager.verify_backup(backup.backup_id, name, progress=sink),
            "restore": lambda sink: manager.restore_backup(backup.backup_id, name, params, progress=sink),
        }
        for operation, start in operations.items():
            stream = ProgressStream()
            task = asyncio.create_task(start(stream))
            seen = [progress async for progress in stream]
            assert (await task).success
            for before, after in itertools.pairwise(seen):
                assert before.percentage <= after.percentage, operation
                assert before.bytes_processed <= after.bytes_processed, operation
                assert before.rows_processed <= after.rows_processed, operation
                assert before.current_time <= after.current_time, operation
            last = seen[-1]
            assert (last.percentage, last.is_complete, last.formatted_eta) == (100.0, True, "done"), operation
            assert last.bytes_processed > 0
            assert max(progress.current_speed_mbps for progress in seen) > 0, operation
            if operation != "verify":
                assert last.rows_processed == last.total_rows == rows
            else:
                told = [p for p in seen if p.estimated_remaining_time_seconds is not None and not p.is_complete]
                assert told, "no time left was told in two seconds"
                assert all(progress.estimated_remaining_time_seconds < 60 for progress in told)


async def test_who_comes_second_is_told_how_far_the_first_is(lite_tcp, connect, name):
    create(lite_tcp.client, name, partitioned(900))
    async with connect(lite_tcp, auto_verify_after_backup=False) as manager:
        size = (await manager.create_backup(name)).metadata.compressed_size_bytes
    slow = BackupParams(bandwidth_limit_mib=size / MIB / 12)
    async with connect(lite_tcp, max_concurrent_chunks=1) as manager:
        stream = ProgressStream()
        first = asyncio.create_task(manager.create_backup(name, slow, progress=stream))
        async for progress in stream:
            if progress.phase == "reading":  # it has the lock
                break
        percentage = 0.0
        while not percentage:
            assert not first.done(), "it ended before it told how far it is"
            await asyncio.sleep(0.2)
            with pytest.raises(BackupInProgressError, match=name) as refused:
                await manager.create_backup(name)
            percentage = refused.value.progress_percentage
        assert refused.value.collection_name == name
        assert percentage == pytest.approx(100 / 3, abs=0.1)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


# Stopping


async def test_a_backup_that_is_stopped_while_it_is_verified_leaves_nothing_of_it(lite_tcp, connect, name, root, rows):
    async with connect(lite_tcp) as manager:
        size = (await manager.create_backup(name)).metadata.compressed_size_bytes
    async with connect(lite_tcp, bandwidth_limit_mib=size / MIB / 2) as manager:
        verifying = asyncio.Event()

        def tell(progress):
            if progress.phase == "verifying":
                verifying.set()

        task = asyncio.create_task(manager.create_backup(name, BackupParams(backup_name="mine"), progress=tell))
        await asyncio.wait_for(verifying.wait(), 60)
        stopped_at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - stopped_at < 10
        assert len(await manager.list_backups(name)) == 1
        assert leftovers(root) == []
        # and the name is free again
        again = BackupParams(backup_name="mine", bandwidth_limit_mib=None)
        assert (await manager.create_backup(name, again)).success


@pytest.mark.parametrize("operation", ["backup", "restore"])
async def test_stopping_at_any_moment_leaves_a_whole_outcome_or_none(lite_tcp, connect, name, root, operation):
    create(lite_tcp.client, name, plain(400))
    rng = random.Random(8)
    async with connect(lite_tcp) as manager:
        began = time.monotonic()
        whole = await manager.create_backup(name)
        copy = f"{name}_copy"
        params = RestoreParams(target_collection_name=copy, drop_existing=True, load_after_restore=True)
        if operation == "restore":
            began = time.monotonic()
            await manager.restore_backup(whole.backup_id, name, params)
        takes = time.monotonic() - began
        known = {whole.backup_id}
        for _ in range(100 if SOAK else 15):
            if operation == "backup":
                task = asyncio.create_task(manager.create_backup(name))
            else:
                task = asyncio.create_task(manager.restore_backup(whole.backup_id, name, params))
            await asyncio.sleep(rng.uniform(0, 1.1 * takes))
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                assert (await task).success
            assert lite_tcp.staging() == []
            assert leftovers(root) == []
            if operation == "restore":
                assert count(lite_tcp.client, copy) == 400
            # A backup that was whole just before it was stopped may stay: then it is whole.
            for backup in await manager.list_backups(name):
                if backup.backup_id not in known:
                    known.add(backup.backup_id)
                    assert (await manager.verify_backup(backup.backup_id, name)).success
                assert Path(backup.storage_path, "metadata.json").exists()
