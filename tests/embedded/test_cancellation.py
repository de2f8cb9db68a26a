"""The event loop stays free while the core works; canceling, deadlines and rivals leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
import time

import pytest

from milvault import BackupInProgressError, RestoreParams
from tests.backup_files import leftovers
from tests.recipes import count, create, create_large, plain

pytestmark = pytest.mark.timeout(120)

ROWS = 6_000


class Until:
    """A progress sink that sets an event when the job is in one of the phases and has so many rows behind it."""

    def __init__(self, *phases: str, rows: int = 0) -> None:
        self.phases, self.rows, self.reached, self.seen = phases, rows, asyncio.Event(), []

    def __call__(self, progress) -> None:
        self.seen.append(progress)
        if progress.phase in self.phases and progress.rows_processed >= self.rows:
            self.reached.set()


@pytest.fixture
def large(lite_tcp, name):
    """Large enough for a backup to last about a second on Lite."""
    create_large(lite_tcp.uri, name, ROWS, 512)


class Loop:
    """Counts the turns of the event loop, and how much of the loop's own thread went into the longest one.

    Thread time, not the clock: on a busy machine a loop that is free still waits for a core.
    """

    def __init__(self) -> None:
        self.turns, self.longest = 0, 0.0

    async def watch(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.002)
            self.turns += 1
            self.longest = max(self.longest, time.thread_time() - before)


@pytest.mark.parametrize("operation", ["backup", "restore"])
async def test_the_event_loop_stays_free_while_the_core_works(lite_tcp, connect, name, large, operation):
    loop = Loop()
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name) if operation == "restore" else None
        watcher = asyncio.create_task(loop.watch())
        if backup is None:
            done = await manager.create_backup(name)
        else:
            params = RestoreParams(target_collection_name=f"{name}_copy")
            done = await manager.restore_backup(backup.backup_id, name, params)
        watcher.cancel()
    assert done.success, done.error_message
    # A call that held the loop or the interpreter's lock for the second that this takes would leave it a turn or two.
    assert loop.turns > 20
    assert loop.longest < 0.25, f"one turn kept the loop's thread busy for {loop.longest:.3f} s"


async def test_canceling_a_backup_stops_it_and_leaves_nothing(lite_tcp, connect, name, root, large):
    async with connect(lite_tcp) as manager:
        until = Until("reading", rows=1)
        task = asyncio.create_task(manager.create_backup(name, progress=until))
        await asyncio.wait_for(until.reached.wait(), 60)
        canceled_at = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.perf_counter() - canceled_at < 10
        assert leftovers(root) == []
        assert await manager.list_backups(name) == []
        assert (await manager.create_backup(name)).success


async def test_canceling_a_restore_leaves_the_existing_collection_and_no_staging(lite_tcp, connect, name, root, large):
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
        lite_tcp.client.delete(name, filter="id >= 100")
        until = Until("inserting", rows=1)
        params = RestoreParams(drop_existing=True)
        task = asyncio.create_task(manager.restore_backup(backup.backup_id, name, params, progress=until))
        await asyncio.wait_for(until.reached.wait(), 60)
        canceled_at = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.perf_counter() - canceled_at < 10
    assert lite_tcp.staging() == []
    assert count(lite_tcp.client, name) == 100
    assert leftovers(root) == []


async def test_wait_for_cancels_cleanly(lite_tcp, connect, name, root, large):
    async with connect(lite_tcp) as manager:
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await asyncio.wait_for(manager.create_backup(name), 0.3)
        assert leftovers(root) == []


async def test_a_deadline_is_told_by_the_result_and_leaves_nothing(lite_tcp, connect, name, root, large):
    async with connect(lite_tcp) as manager:
        result = await manager.create_backup(name, timeout=0.3)
        assert not result.success
        assert isinstance(result.error, TimeoutError)
        with pytest.raises(TimeoutError):
            result.raise_for_error()
        assert leftovers(root) == []
        whole = await manager.create_backup(name)
        restored = await manager.restore_backup(
            whole.backup_id, name, RestoreParams(target_collection_name=f"{name}_copy"), timeout=0.3
        )
        assert isinstance(restored.error, TimeoutError)
    assert lite_tcp.staging() == []
    assert f"{name}_copy" not in lite_tcp.client.list_collections()
    assert leftovers(root) == []


async def test_progress_grows_to_a_hundred_percent(lite_tcp, connect, name, large):
    until = Until()
    async with connect(lite_tcp) as manager:
        result = await manager.create_backup(name, progress=until)
        assert result.success, result.error_message
    percentages = [progress.percentage for progress in until.seen]
    assert percentages == sorted(percentages)
    assert until.seen[-1].percentage == 100
    assert until.seen[-1].is_complete
    assert until.seen[-1].rows_processed == until.seen[-1].total_rows == ROWS
    assert {"reading"} <= {progress.phase for progress in until.seen}


async def test_a_second_backup_of_the_same_collection_is_refused_meanwhile(lite_tcp, connect, name, root, large):
    async with connect(lite_tcp) as first, connect(lite_tcp) as second:
        until = Until("reading")
        task = asyncio.create_task(first.create_backup(name, progress=until))
        await asyncio.wait_for(until.reached.wait(), 60)
        with pytest.raises(BackupInProgressError, match=name):
            await second.create_backup(name)
        assert (await task).success
        assert (await second.create_backup(name)).success
    assert leftovers(root) == []


async def test_a_failing_progress_callback_does_not_fail_the_backup(lite, connect, name, caplog):
    create(lite.client, name, plain(100))

    def broken(progress) -> None:
        raise ValueError("my own mistake")

    async with connect(lite) as manager:
        assert (await manager.create_backup(name, progress=broken)).success
    assert "my own mistake" in caplog.text


async def test_abandoned_work_of_a_closed_manager_leaves_nothing(lite_tcp, connect, name, root, large):
    manager = connect(lite_tcp)
    until = Until("reading", rows=1)
    task = asyncio.create_task(manager.create_backup(name, progress=until))
    await asyncio.wait_for(until.reached.wait(), 60)
    await manager.close()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await asyncio.wait_for(task, 20)
    async with connect(lite_tcp) as another:
        assert (await another.create_backup(name)).success
    assert leftovers(root) == []


def test_use_after_a_fork_is_a_clear_error(lite_server, tmp_path):
    script = f"""
        import asyncio, os, sys
        from milvault import BackupManager

        manager = BackupManager.connect({lite_server.uri!r}, {str(tmp_path / "backups")!r})
        asyncio.run(manager.list_backups())
        if os.fork() == 0:
            try:
                asyncio.run(manager.list_backups())
                print("worked", flush=True)
            except Exception as error:
                print(type(error).__name__, error, flush=True)
            os._exit(0)
        os.wait()
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "fork" in done.stdout, done.stdout + done.stderr


async def test_restored_rows_are_there_after_a_canceled_attempt(lite_tcp, connect, name, large):
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
        lite_tcp.client.drop_collection(name)
        until = Until("inserting", "loading", "proving", rows=1)
        task = asyncio.create_task(manager.restore_backup(backup.backup_id, name, progress=until))
        await asyncio.wait_for(until.reached.wait(), 60)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        params = RestoreParams(load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert count(lite_tcp.client, name) == ROWS
