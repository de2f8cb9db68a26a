"""Listings of many backups: complete, in order, everything damaged named; read by the batch, on several threads."""

from __future__ import annotations

import datetime as dt
import gc
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from milvault import BackupManager
from milvault._listing import read_listing
from milvault.results import read_metadata
from tests.manifests import fill, put, reseal
from tests.manifests import manifest as manifest_of
from tests.unit.fake_core import METADATA

NOW = dt.datetime(2026, 11, 21, 6, 30, tzinfo=dt.timezone.utc)
COLLECTIONS = ("articles", "films", "images")


def _flipped(folder: Path) -> None:
    path = folder / "metadata.json"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(folder: Path) -> None:
    path = folder / "metadata.json"
    path.write_bytes(path.read_bytes()[:-40])


def _a_link(folder: Path) -> None:
    elsewhere = folder / "elsewhere.json"
    (folder / "metadata.json").rename(elsewhere)
    (folder / "metadata.json").symlink_to(elsewhere)


def _newer(folder: Path) -> None:
    reseal(folder, lambda manifest: manifest.update(metadata_version=2))


def _of_another(folder: Path) -> None:
    reseal(folder, lambda manifest: manifest.update(collection_name="others"))


def _impossible(folder: Path) -> None:
    # Whole for the core, which keeps tags of any text, and a number where Python has none.
    reseal(folder, lambda manifest: manifest.update(created_at="-0001-01-01T00:00:00Z"))


DAMAGE: tuple[Callable[[Path], None], ...] = (_flipped, _cut, _a_link, _newer, _of_another, _impossible)


async def test_of_hundreds_of_backups_every_one_is_listed_or_named_as_damaged(tmp_path: Path) -> None:
    fill(tmp_path, 400, COLLECTIONS, NOW)
    folders = sorted(path for collection in COLLECTIONS for path in (tmp_path / collection).iterdir())
    broken = folders[::9]
    for number, folder in enumerate(broken):
        DAMAGE[number % len(DAMAGE)](folder)
    unfinished = folders[4]
    (unfinished / "metadata.json").unlink()
    unreadable_verdict = folders[2]
    (unreadable_verdict / "verification.json").write_text("[not json")
    whole = set(folders) - set(broken) - {unfinished}

    async with BackupManager.connect(None, tmp_path) as manager:
        listed = await manager.list_backups()
        assert {Path(backup.storage_path) for backup in listed} == whole
        assert {Path(each.storage_path) for each in listed.damaged} == set(broken)
        assert all(each.reason for each in listed.damaged)
        keys = [(backup.created_at, backup.backup_id) for backup in listed]
        assert keys == sorted(keys, reverse=True)
        verified = {Path(backup.storage_path) for backup in listed if backup.is_verified}
        assert verified == {path for path in whole if (path / "verification.json").exists()} - {unreadable_verdict}

        pages = [await manager.list_backups(limit=100, offset=offset) for offset in range(0, len(whole), 100)]
        assert [backup for page in pages for backup in page] == listed
        one = await manager.list_backups("films")
        assert one == [backup for backup in listed if backup.collection_name == "films"]
        assert {each.collection_name for each in one.damaged} == {"films"}
        for backup in (listed[0], listed[-1]):
            assert await manager.get_backup(backup.backup_id) == backup

        kept = await manager.apply_retention_policy(dry_run=True, retention_count=5)
        named = {*kept["kept"], *kept["left_alone"], *(each["backup_id"] for each in kept["planned"])}
        assert {folder.name for folder in whole} | {folder.name for folder in broken} <= named


async def test_a_collections_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", manifest_of(NOW, 1, "articles"))
    root = tmp_path / "root"
    root.mkdir()
    (root / "articles").symlink_to(tmp_path / "elsewhere" / "articles")
    inner = put(root, manifest_of(NOW, 2, "films"))
    shutil.move(inner, tmp_path / "moved")
    inner.symlink_to(tmp_path / "moved")
    async with BackupManager.connect(None, root) as manager:
        found = await manager.list_backups()
    assert (found, found.damaged) == ([], [])


def _answer(*backups: dict[str, object]) -> str:
    lost = {"backup_id": "b1", "database": "default", "collection_name": "a", "storage_path": "/r", "reason": "cut"}
    return json.dumps({"ok": {"backups": backups, "damaged": [lost]}})


def test_a_listing_reads_as_its_backups_do_one_by_one() -> None:
    older = {**METADATA, "backup_id": "b20251121T063000Z_3f9a1c", "state": "DELETING", "unheard_of": {"a": [1, 2.5]}}
    found = read_listing("list", _answer(METADATA, older)).unwrap()
    assert found == [read_metadata(METADATA), read_metadata(older)]
    assert [backup.model_dump() for backup in found] == [read_metadata(each).model_dump() for each in (METADATA, older)]
    assert found[1].unheard_of == {"a": [1, 2.5]}
    assert [each.reason for each in found.damaged] == ["cut"]


def test_a_backup_that_cannot_be_is_damaged_and_the_others_are_listed(caplog: pytest.LogCaptureFixture) -> None:
    bad = {**METADATA, "backup_id": "b20251121T063000Z_3f9a1c", "row_count": "many"}
    found = read_listing("list", _answer(METADATA, bad)).unwrap()
    assert found == [read_metadata(METADATA)]
    assert [each.backup_id for each in found.damaged] == ["b1", bad["backup_id"]]
    assert "row_count" in found.damaged[1].reason
    assert found.damaged[1].storage_path == METADATA["storage_path"]
    assert bad["backup_id"] in caplog.text


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_left_as_it_was(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        read_listing("list", _answer(METADATA))
        assert gc.isenabled() is enabled
        read_listing("list", _answer({**METADATA, "row_count": "many"}))
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_listing_that_failed_is_an_error() -> None:
    text = json.dumps({"error": {"kind": "storage", "message": "no access"}, "started": False})
    outcome = read_listing("list", text)
    assert outcome.error is not None
    assert outcome.error.kind == "storage"
