"""The server is killed (SIGKILL) in the middle. The error says so, and the next run sweeps what was left."""

from __future__ import annotations

import asyncio

import pytest
from pymilvus import MilvusClient

from milvault import BackupError, RestoreError, RestoreParams
from tests.backup_files import leftovers
from tests.conftest import STAGING
from tests.recipes import count, create_large

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

ROWS = 5_000


@pytest.fixture(params=["own_lite_server", pytest.param("own_milvus_server", marks=pytest.mark.server)])
def victim(request):
    return request.getfixturevalue(request.param)


def kill_at(server, phase):
    killed = []

    def sink(progress) -> None:
        if progress.phase == phase and progress.rows_processed and not killed:
            killed.append(progress)
            server.kill()

    sink.killed = killed
    return sink


def staging(client: MilvusClient) -> list[str]:
    return [name for name in client.list_collections() if STAGING.match(name)]


async def test_a_backup_whose_server_is_killed_fails_and_leaves_nothing(victim, connect, name, root):
    create_large(victim.uri, name, ROWS, 512)
    sink = kill_at(victim, "reading")
    async with connect(victim.uri, max_retries=1) as manager:
        result = await asyncio.wait_for(manager.create_backup(name, progress=sink), 120)
        assert sink.killed
        assert not result.success
        assert isinstance(result.error, BackupError)
        assert leftovers(root) == []
        assert await manager.list_backups(name) == []


async def test_a_restore_whose_server_is_killed_is_swept_by_the_next_run(victim, connect, name, root):
    client = MilvusClient(victim.uri)
    create_large(victim.uri, name, ROWS, 512)
    async with connect(victim.uri, max_retries=1) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        client.delete(name, filter="id >= 100")
        if victim.kind == "server":
            client.flush(name)
        sink = kill_at(victim, "inserting")
        params = RestoreParams(drop_existing=True, load_after_restore=True)
        result = await asyncio.wait_for(manager.restore_backup(backup.backup_id, name, params, progress=sink), 120)
        assert sink.killed
        assert not result.success
        assert isinstance(result.error, RestoreError)

    victim.start()
    client = MilvusClient(victim.uri)
    client.load_collection(name)
    assert count(client, name) == 100, "the existing collection was touched"
    async with connect(victim.uri) as manager:
        restored = await asyncio.wait_for(manager.restore_backup(backup.backup_id, name, params), 200)
        assert restored.success, restored.error_message
    assert staging(client) == []
    assert leftovers(root) == []
    assert count(client, name) == ROWS
