"""Servers shared by the whole run, and what each test gets of its own: a collection name, a repository, a manager."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from pymilvus import MilvusClient, MilvusException

from tests.servers.milvus_235 import Milvus235
from tests.servers.milvus_lite import MilvusLiteServer
from tests.servers.s3 import S3Server

if TYPE_CHECKING:
    from milvault import BackupManager

SOAK = os.environ.get("MILVAULT_SOAK") == "1"
"""Whether the fault suites run at full size."""

STAGING = re.compile(r"mv_[0-9a-f]{8}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows why a test was tried again: by itself pytest tells only that it was."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.section(f"tried again: {report.nodeid} ({report.when})", sep="-")
        terminalreporter.write_line(report.longreprtext)


@dataclass(frozen=True)
class Milvus:
    """One Milvus for a test: where it is, which kind, and pymilvus's client on it."""

    uri: str
    kind: str
    client: MilvusClient

    @property
    def address(self) -> str:
        """Where it serves gRPC; an embedded one does so too."""
        from milvus_lite.server_manager import server_manager_instance

        return server_manager_instance.start_and_get_uri(self.uri) if self.kind == "lite" else self.uri

    def staging(self) -> list[str]:
        """Collections that a restore left behind."""
        return [name for name in self.client.list_collections() if STAGING.match(name)]


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus235]:
    """Milvus 2.3.5, started once a run."""
    base = tmp_path_factory.mktemp("milvus-235")
    server = Milvus235(base).start()
    yield server
    server.stop()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def lite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusLiteServer]:
    """Milvus Lite over TCP, started once a run."""
    server = MilvusLiteServer(tmp_path_factory.mktemp("milvus-lite")).start()
    yield server
    server.stop()


@pytest.fixture
def own_milvus_server(tmp_path: Path) -> Iterator[Milvus235]:
    """A second Milvus 2.3.5, for one test alone, which may kill it."""
    base = tmp_path / "own-milvus"
    server = Milvus235(base).start()
    yield server
    server.kill()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def own_lite_server(tmp_path: Path) -> Iterator[MilvusLiteServer]:
    """A Milvus Lite over TCP for one test alone, which may kill it."""
    server = MilvusLiteServer(tmp_path / "own-lite").start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto's S3, started once a run."""
    server = S3Server(tmp_path_factory.mktemp("s3")).start()
    yield server
    server.stop()


@pytest.fixture
def bucket(s3_server: S3Server, name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket, reachable through the environment as on a user's machine."""
    bucket = name.replace("_", "-").lower()
    s3_server.client().create_bucket(Bucket=bucket)
    for variable, value in s3_server.environment.items():
        monkeypatch.setenv(variable, value)
    return bucket


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A collection name that no other test has."""
    words = re.sub(r"\W+", "_", request.node.originalname or request.node.name)[:30].strip("_")
    return f"{words}_{hashlib.md5(request.node.nodeid.encode()).hexdigest()[:8]}"


def client_of(uri: str, db_name: str = "default") -> MilvusClient:
    """pymilvus's client without its pings every ten seconds.

    gRPC's server in Python, which Milvus Lite has, ends a connection for "too many pings", and with it whatever call
    comes at that moment.
    """
    quiet = {"grpc.keepalive_time_ms": 7_200_000, "grpc.keepalive_permit_without_calls": False}
    for _ in range(4):
        with contextlib.suppress(grpc.RpcError, MilvusException):
            return MilvusClient(uri, db_name=db_name, grpc_options=quiet)
        time.sleep(1)
    return MilvusClient(uri, db_name=db_name, grpc_options=quiet)


def _on(uri: str, kind: str) -> Iterator[Milvus]:
    milvus = Milvus(uri, kind, client_of(uri))
    before = set(milvus.client.list_collections())
    yield milvus
    milvus.client.close()
    # An embedded server that the test ended is started again, on another port: the old client knows nothing of it.
    client = client_of(uri)
    left = [name for name in client.list_collections() if STAGING.match(name)]
    for collection in set(client.list_collections()) - before:
        for alias in client.list_aliases(collection)["aliases"]:
            client.drop_alias(alias)
        client.drop_collection(collection)
    client.close()
    assert not left, f"staging collections left behind: {left}"


@pytest.fixture
def server(milvus_server: Milvus235) -> Iterator[Milvus]:
    """The shared Milvus 2.3.5; the test's collections go when it ends, and a staging collection fails it.

    A server that died fails the test that it died in, and is started again for the next.
    """
    if not milvus_server.running:
        milvus_server.start()
    yield from _on(milvus_server.uri, "server")


@pytest.fixture
def lite_tcp(lite_server: MilvusLiteServer) -> Iterator[Milvus]:
    """The shared Milvus Lite over TCP; as `server`."""
    yield from _on(lite_server.uri, "lite-tcp")


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Milvus]:
    """Milvus Lite inside this process, on a new `.db`."""
    from milvus_lite.server_manager import server_manager_instance

    path = str(tmp_path / "embedded.db")
    yield from _on(path, "lite")
    server_manager_instance.release_server(path)


@pytest.fixture(
    params=[
        pytest.param("lite", marks=pytest.mark.embedded),
        "lite_tcp",
        pytest.param("server", marks=pytest.mark.server),
    ]
)
def milvus(request: pytest.FixtureRequest) -> Milvus:
    """Each way of running Milvus in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a repository goes; made by its first use."""
    return tmp_path / "backups"


Connect = Callable[..., "BackupManager"]


@pytest.fixture
def connect(root: Path) -> Connect:
    """Makes managers: `connect(milvus)`, `connect(milvus, root=…, checksum_algorithm=…)`; quick to give up retrying."""

    def make(milvus: Milvus | str | None, *, root: str | Path = root, **settings: Any) -> BackupManager:
        from milvault import BackupManager, BackupRecoveryConfig, CollectionManager, ConnectionManager

        config = BackupRecoveryConfig(
            **{
                "local_backup_root_path": str(root),
                "retry_delay_seconds": 0.2,
                "progress_poll_interval": 0.02,
                **settings,
            }
        )
        if milvus is None:
            return BackupManager.connect(None, str(root))
        connection = ConnectionManager(uri=milvus if isinstance(milvus, str) else milvus.uri)
        return BackupManager(
            connection_manager=connection, collection_manager=CollectionManager(connection), config=config
        )

    return make


def files_under(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
