"""What the tests of the contract's examples share: a collection of their name, and a manager as they make it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from milvault import BackupManager, BackupRecoveryConfig, CollectionManager, ConnectionManager
from tests.conftest import Milvus
from tests.promises.text import text
from tests.recipes import Recipe, create, plain

# The text is no part of this repository; without it there is nothing to run, now or later: no skip to look after.
collect_ignore = [] if text() else ["test_text.py"]

COLLECTION = "my_collection"
PARTITIONS = ("_default", "partition_2024_01", "partition_2024_02")
ROWS = 90


def recipe() -> Recipe:
    """Thirty rows in each partition."""
    base = plain(ROWS)
    return Recipe(base.fields, base.rows, partition_of=lambda row: PARTITIONS[row["id"] % 3])


@pytest.fixture
def collection(lite: Milvus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The collection, on a Milvus Lite that `ConnectionManager()` finds; relative paths lead into the test's folder."""
    create(lite.client, COLLECTION, recipe())
    monkeypatch.setenv("MILVAULT_URI", lite.uri)
    monkeypatch.chdir(tmp_path)
    return COLLECTION


@pytest.fixture
def backup_manager(collection: str, tmp_path: Path) -> BackupManager:
    """A manager, put together of three parts."""
    connection_manager = ConnectionManager()
    return BackupManager(
        connection_manager=connection_manager,
        collection_manager=CollectionManager(connection_manager),
        config=BackupRecoveryConfig(local_backup_root_path=str(tmp_path / "backups"), compression_enabled=True),
    )


@pytest.fixture
def short_schedule(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every job of the `schedule` library that is due some day is due at once, and waiting for it costs nothing.

    The loop that waits for the next day ends after its first round, by `Enough`.
    """
    import schedule

    sleep = time.sleep

    def next_day(seconds: float) -> None:
        if seconds < 30 or threading.current_thread() is not threading.main_thread():
            sleep(seconds)  # somebody else's: a server in this process waits for its own things
            return
        schedule.run_all()
        raise Enough

    monkeypatch.setattr("time.sleep", next_day)
    yield
    schedule.clear()


class Enough(Exception):  # noqa: N818 - nothing went wrong
    """A loop without an end has been round once."""
