"""What newer servers tell over HTTP alone: which files a segment is made of, and that they keep them while asked to."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymilvus.grpc_gen import milvus_pb2

from milvault import BackupError, BackupManager, BackupParams, BackupRecoveryConfig, BackupStorageType
from tests.backup_files import leftovers
from tests.conftest import Milvus
from tests.faults.proxy import answer, proxy_to
from tests.native.test_check import named
from tests.recipes import create, plain
from tests.servers.http_beside import Beside, Json, Reply

pytestmark = [pytest.mark.server]

PAUSE, RESUME = (f"/management/datacoord/garbage_collection/{verb}" for verb in ("pause", "resume"))


def told(folder: Path, left_out: set[Path] = frozenset()) -> list[dict[str, Any]]:
    """The files below a segment's folder, as a server tells them."""
    logs: dict[int, list[int]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path not in left_out):
        field = int(file.parent.name) if file.parent != folder else 0
        logs.setdefault(field, []).append(int(file.name))
    return [{"fieldID": field, "logIDs": numbers} for field, numbers in logs.items()]


@contextmanager
def telling(server: Milvus, tell: Any, version: str = "v2.6.3") -> Iterator[tuple[Milvus, Json]]:
    """The server, as one that says it is newer, with HTTP at its address."""
    http = Json(tell)
    with proxy_to(server.uri) as proxy:
        proxy.add("GetVersion", answer(milvus_pb2.GetVersionResponse(version=version)), times=None)
        both = Beside(proxy.port, http.port)
        try:
            yield Milvus(both.uri, server.kind, server.client), http
        finally:
            both.stop()
            http.stop()


async def test_files_that_the_server_does_not_name_are_no_part_of_a_segment(server, native, mirror, connect, name):
    create(server.client, name, plain(300))
    server.client.flush(name)
    server.client.delete(name, ids=list(range(20)))
    async with native() as manager:
        (await manager.create_backup(name)).raise_for_error()
    mirror.refresh()
    # The same rows once more in every field: what an upload that was tried again may leave, and nothing shows.
    [segment] = (mirror.folder / "insert_log" / mirror_number(server, name)).glob("*/*")
    more = set()
    for file in [path for path in segment.rglob("*") if path.is_file()]:
        again = file.with_name(str(int(file.name) + 1000))
        shutil.copy(file, again)
        more.add(again)

    def tell(_method: str, path: str, _query: dict[str, str], wanted: Any) -> Reply:
        assert path == "/v2/vectordb/segments/describe"
        assert (wanted["dbName"], str(wanted["collectionId"])) == ("default", mirror_number(server, name))
        found = []
        for number in wanted["segmentIds"]:
            [rows] = (mirror.folder / "insert_log").glob(f"*/*/{number}")
            deletes = mirror.folder / "delta_log" / rows.relative_to(mirror.folder / "insert_log")
            found.append(
                {"segmentID": number, "numRows": 300, "insertLogs": told(rows, more), "deltaLogs": told(deletes)}
            )
        return 200, {"code": 0, "data": {"segmentInfos": found}}

    with telling(server, tell) as (newer, http):
        for storage_type in (BackupStorageType.MILVUS_NATIVE, BackupStorageType.LOCAL_FILE):
            async with connect(newer, milvus_storage=str(mirror.folder)) as manager:
                made = await manager.create_backup(name, BackupParams(storage_type=storage_type, source="auto"))
            made.raise_for_error()
            assert made.row_count == 280
        assert len(http.requests) >= 2
    # Without the server's word there are twice as many rows as it says, and no backup.
    async with native(milvus_storage=str(mirror.folder)) as manager:
        refused = await manager.create_backup(name)
    assert isinstance(refused.error, BackupError)
    assert "600 rows" in refused.error_message


def mirror_number(server: Milvus, name: str) -> str:
    return str(server.client.describe_collection(name)["collection_id"])


async def test_a_file_that_the_server_names_and_that_is_not_there_is_never_left_out(
    server, milvus_server, connect, root, name
):
    create(server.client, name, plain(100))
    server.client.flush(name)

    def tell(_method: str, _path: str, _query: dict[str, str], wanted: Any) -> Reply:
        found = [
            {
                "segmentID": number,
                "insertLogs": [{"fieldID": 100, "logIDs": [1]}],
                "deltaLogs": None,
            }
            for number in wanted["segmentIds"]
        ]
        return 200, {"code": 0, "data": {"segmentInfos": found}}

    with telling(server, tell) as (newer, _):
        async with connect(
            newer, milvus_storage=str(milvus_server.data), default_storage_type=BackupStorageType.MILVUS_NATIVE
        ) as manager:
            with pytest.raises(Exception, match="does not hold the files") as raised:
                (await manager.create_backup(name)).raise_for_error()
    assert "segment" in str(raised.value)
    assert leftovers(root) == []


@pytest.mark.parametrize(
    "said", [(404, {}), (200, {"code": 1100, "message": "no such thing"}), (200, "no JSON object"), (500, None)]
)
async def test_a_server_that_does_not_tell_after_all_is_read_by_its_folders(
    server, milvus_server, connect, name, said, caplog
):
    create(server.client, name, plain(50))
    server.client.flush(name)
    with telling(server, lambda *_: said) as (newer, http), caplog.at_level(logging.WARNING, "milvault"):
        async with connect(
            newer, milvus_storage=str(milvus_server.data), default_storage_type=BackupStorageType.MILVUS_NATIVE
        ) as manager:
            made = await manager.create_backup(name)
        made.raise_for_error()
        assert made.row_count == 50
        assert http.requests
    assert "does not tell the files of its segments" in caplog.text


async def test_an_older_server_is_not_asked(server, milvus_server, connect, name):
    create(server.client, name, plain(50))
    server.client.flush(name)
    with telling(server, lambda *_: (500, None), version="v2.5.7") as (older, http):
        async with connect(
            older, milvus_storage=str(milvus_server.data), default_storage_type=BackupStorageType.MILVUS_NATIVE
        ) as manager:
            (await manager.create_backup(name)).raise_for_error()
        assert http.requests == []


async def test_the_servers_credentials_go_with_the_question(server, milvus_server, root, name):
    create(server.client, name, plain(50))
    server.client.flush(name)
    with telling(server, lambda *_: (404, {})) as (newer, http):
        config = BackupRecoveryConfig(
            milvus_storage=str(milvus_server.data), default_storage_type=BackupStorageType.MILVUS_NATIVE
        )
        async with BackupManager.connect(newer.uri, root, token="root:Milvus", config=config) as manager:
            (await manager.create_backup(name)).raise_for_error()
        assert {headers.get("authorization") for headers in http.headers} == {"Bearer root:Milvus"}


def _wait_until(holds: Any) -> None:
    limit = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < limit, "it did not come to hold in ten seconds"
        time.sleep(0.05)


async def test_files_are_kept_while_they_are_copied(server, native, name):
    create(server.client, name, plain(100))
    asked = threading.Lock()
    tickets = iter(range(100))

    def manage(_method: str, path: str, _query: dict[str, str], _body: Any) -> Reply:
        with asked:
            return 200, {"msg": "OK", "ticket": f"a ticket/{next(tickets)}"} if path == PAUSE else {"msg": "OK"}

    port = Json(manage)
    try:
        async with native(milvus_management=port.uri) as manager:
            (await manager.create_backup(name)).raise_for_error()
            _wait_until(lambda: len(port.requests) == 2)
            (first, paused, _), (second, resumed, _) = port.requests
            assert (first, second) == (PAUSE, RESUME)
            assert paused == {"pause_seconds": "1800", "collection_id": mirror_number(server, name)}
            assert resumed == {"ticket": "a ticket/0"}
            # A set's other members may not be copied yet when the first one is: there the pause ends by itself.
            port.requests.clear()
            assert (await manager.create_backups(name)).success
            time.sleep(0.5)
            assert {path for path, _, _ in port.requests} == {PAUSE}
            port.requests.clear()
            found = await manager.check(name)
            assert named(found, "milvus_management").success is True
            assert [path for path, _, _ in port.requests] == [PAUSE, RESUME]
    finally:
        port.stop()


async def test_a_backup_that_fails_ends_the_pause_too(server, native, name, tmp_path):
    create(server.client, name, plain(100))
    server.client.flush(name)
    port = Json(lambda *_: (200, {}))
    try:
        async with native(milvus_management=port.uri, milvus_storage=str(tmp_path)) as manager:
            with pytest.raises(Exception, match="milvus_storage"):
                (await manager.create_backup(name)).raise_for_error()
            _wait_until(lambda: [path for path, _, _ in port.requests] == [PAUSE, RESUME])
    finally:
        port.stop()


async def test_a_management_port_that_cannot_is_no_reason_to_fail(server, milvus_server, native, name, caplog):
    create(server.client, name, plain(100))
    # 2.3.5's own has no such path; nothing listens at the other.
    for address, success in ((f"http://127.0.0.1:{milvus_server.web_port}", None), ("http://127.0.0.1:1", False)):
        async with native(milvus_management=address, max_retries=0) as manager:
            (await manager.create_backup(name)).raise_for_error()
            found = named(await manager.check(name), "milvus_management")
        assert (found.success, address in found.message) == (success, True)
    assert "could not be asked to keep its files" in caplog.text
