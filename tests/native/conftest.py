"""A manager that copies Milvus's own files; copies, to be damaged, of the server's storage and of a backup."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from milvault import BackupManager, BackupStorageType
from tests.conftest import Connect, Milvus, client_of
from tests.native.theirs import DATA
from tests.servers.milvus_235 import QUICK, Milvus235

Native = Callable[..., BackupManager]


@pytest.fixture
def native(server: Milvus, milvus_server: Milvus235, connect: Connect) -> Native:
    """Makes managers on the shared Milvus 2.3.5 whose backups are native, of its own storage unless told otherwise."""

    def make(milvus: Milvus = server, **settings: Any) -> BackupManager:
        given = {
            "milvus_storage": str(milvus_server.data),
            "default_storage_type": BackupStorageType.MILVUS_NATIVE,
            **settings,
        }
        return connect(milvus, **given)

    return make


@pytest.fixture(scope="session")
def calm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus235]:
    """A Milvus 2.3.5 that compacts nothing by itself, started once a run where a test asks for it."""
    base = tmp_path_factory.mktemp("calm-milvus")
    server = Milvus235(base, {**QUICK, "dataCoord.compaction.enableAutoCompaction": "false"}).start()
    yield server
    server.stop()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def calm(calm_server: Milvus235) -> Iterator[Milvus]:
    """That server; the test's collections go when it ends. If it dies, the test that it dies in fails, and no other."""
    if not calm_server.running:
        calm_server.start()
    client = client_of(calm_server.uri)
    yield Milvus(calm_server.uri, "server", client)
    for collection in client.list_collections():
        client.drop_collection(collection)
    client.close()


@pytest.fixture
def calm_native(calm: Milvus, calm_server: Milvus235, connect: Connect) -> Native:
    """As `native`, on the server that compacts nothing."""

    def make(**settings: Any) -> BackupManager:
        given = {
            "milvus_storage": str(calm_server.data),
            "default_storage_type": BackupStorageType.MILVUS_NATIVE,
            **settings,
        }
        return connect(calm, **given)

    return make


class Mirror:
    """Milvus's storage under another path: the same files by other names, which may be taken away."""

    def __init__(self, data: Path, folder: Path) -> None:
        self._data, self.folder = data, folder

    def refresh(self) -> None:
        """Holds what the server's storage holds now."""
        for kind in ("insert_log", "delta_log"):
            if (self._data / kind).exists():
                shutil.copytree(self._data / kind, self.folder / kind, copy_function=self._link, dirs_exist_ok=True)

    def files(self, collection: int | str) -> list[Path]:
        """A collection's files of rows, in the order in which they are copied: the last one last."""
        files = [path for path in (self.folder / "insert_log" / str(collection)).rglob("*") if path.is_file()]
        return sorted(files, key=lambda path: [int(part) for part in path.parts[-3:]])

    @staticmethod
    def _link(source: str, target: str) -> None:
        if not os.path.exists(target):  # noqa: PTH110 - what copytree hands over are texts
            os.link(source, target)


@pytest.fixture
def mirror(milvus_server: Milvus235, tmp_path: Path) -> Mirror:
    """An empty mirror of the shared server's storage."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    return Mirror(milvus_server.data, folder)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A copy of a backup by milvus-backup, to be damaged."""
    return Path(shutil.copytree(DATA / "fx_int", tmp_path / "theirs"))
