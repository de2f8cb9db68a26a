"""TLS to a Milvus server, over gRPC and over HTTP: with an authority, a name and certificates of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymilvus.grpc_gen import milvus_pb2

from milvault import BackupManager, BackupRecoveryConfig, BackupStorageType, RestoreParams
from tests.faults.proxy import answer, proxy_to
from tests.recipes import create, plain
from tests.servers.http_beside import Json
from tests.servers.tls_front import TlsFront

pytestmark = [pytest.mark.server]


@pytest.fixture
def newer(server) -> Iterator[tuple[int, Json]]:
    """The port of a server that says it is newer, and HTTP that tells nothing of its files."""
    http = Json(lambda *_: (404, {}))
    with proxy_to(server.uri) as proxy:
        proxy.add("GetVersion", answer(milvus_pb2.GetVersionResponse(version="v2.6.3")), times=None)
        yield proxy.port, http
    http.stop()


@pytest.fixture
def front(newer, tmp_path, request) -> Iterator[TlsFront]:
    port, http = newer
    front = TlsFront({"h2": port, "http/1.1": http.port}, tmp_path, **getattr(request, "param", {}))
    yield front
    front.stop()


def manager_of(front: TlsFront, root: Any, **tls: Any) -> BackupManager:
    config = BackupRecoveryConfig(max_retries=0, **tls.pop("config", {}))
    return BackupManager.connect(front.uri, root, config=config, **tls)


WITH_CLIENT = {"asks": True}
OTHER_NAME = {"name": "milvus.example"}


@pytest.mark.parametrize("front", [{}, WITH_CLIENT, OTHER_NAME], indirect=True, ids=["plain", "client", "name"])
async def test_a_collection_is_backed_up_and_restored_over_tls(
    server, milvus_server, newer, front, root, name, request
):
    create(server.client, name, plain(300))
    server.client.flush(name)
    tls: dict[str, Any] = {"ca_file": front.ca_file}
    kind = request.node.callspec.id
    if kind == "client":
        tls.update(cert_file=front.cert_file, key_file=front.key_file)
    if kind == "name":
        tls.update(server_name=OTHER_NAME["name"])
    native = {
        "milvus_storage": str(milvus_server.data),
        "default_storage_type": BackupStorageType.MILVUS_NATIVE,
    }
    async with manager_of(front, root, config=native, **tls) as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        restored = await manager.restore_backup(
            made.backup_id, params=RestoreParams(target_collection_name=f"{name}_b")
        )
        restored.raise_for_error()
    assert (made.row_count, restored.rows_restored, restored.verification_passed) == (300, 300, True)
    _, http = newer
    assert [path for path, _, _ in http.requests] == ["/v2/vectordb/segments/describe"]
    assert front.spoken == {"h2", "http/1.1"}


@pytest.mark.parametrize("front", [WITH_CLIENT], indirect=True)
async def test_who_has_no_certificate_is_told_so(server, front, root, name):
    async with manager_of(front, root, ca_file=front.ca_file) as manager:
        found = (await manager.check()).checks[0]
    assert (found.name, found.success) == ("server", False)
    assert front.uri in found.message


async def test_an_authority_that_is_not_trusted_is_refused(server, front, root, name):
    async with manager_of(front, root) as manager:
        found = (await manager.check()).checks[0]
    assert found.success is False
    assert "certificate" in found.message.lower()


@pytest.mark.parametrize("front", [OTHER_NAME], indirect=True)
async def test_a_certificate_of_another_name_is_refused(server, front, root, name):
    async with manager_of(front, root, ca_file=front.ca_file) as manager:
        found = (await manager.check()).checks[0]
    assert found.success is False
    assert "certificate" in found.message.lower()
