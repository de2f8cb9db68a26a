"""Backups that milvus-backup made and keeps: found in a repository or named by path, and read where they lie."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest

from milvault import (
    BackupCorruptedError,
    BackupManager,
    BackupNotFoundError,
    BackupOwner,
    ForeignBackupError,
    InvalidArgumentError,
    RestoreParams,
    RestoreVia,
    SchemaIncompatibleError,
    VerificationParams,
)
from tests.backup_files import leftovers
from tests.conftest import Milvus, files_under
from tests.manifests import fill
from tests.native.test_rows import change
from tests.native.theirs import DAMAGES, LAST, as_told, expected, make_early, make_untimed
from tests.recipes import RECIPES, create, plain, read_all

META = Path("meta") / "full_meta.json"


def told() -> dict[int, dict[str, object]]:
    """The rows that lived, without the partitions that they were in."""
    rows = expected()
    for row in rows.values():
        del row["_partition"]
    return rows


def change_metadata(folder: Path, change_one) -> None:
    """Changes the metadata of the folder's first collection."""
    meta = json.loads((folder / META).read_text())
    change_one(meta["collection_backups"][0])
    (folder / META).write_text(json.dumps(meta))


def as_milvus_backup_keeps_it(native: Path, folder: Path) -> Path:
    """A native backup's files without our own: what milvus-backup would have made of the collection."""
    for part in ("meta", "binlogs"):
        shutil.copytree(native / part, folder / part, dirs_exist_ok=True)
    return folder


async def test_it_is_read_by_path_and_gives_exactly_the_rows_that_lived(theirs: Path, root: Path) -> None:
    before = files_under(theirs)
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(theirs) as reader:
            assert as_told(pa.table(reader)) == told()
        for partition in ("_default", "p1"):
            with await manager.open_backup(str(theirs), columns=["pk"], partition_names=[partition]) as reader:
                keys = set(pa.table(reader)["pk"].to_pylist())
            assert keys == {key for key, row in expected().items() if row["_partition"] == partition}
        with await manager.open_backup(f"file://{theirs}", columns=["name"], where="i8 == -127") as reader:
            names = pa.table(reader)["name"].to_pylist()
        assert sorted(names) == sorted(row["name"] for row in told().values() if row["i8"] == -127)
        exported = await manager.export_backup(theirs, root.parent / "rows.jsonl", "fx_int")
        assert exported.row_count == 1882
        backup = await manager.get_backup(theirs)
        assert (backup.owner, backup.collection_name) == (BackupOwner.MILVUS_BACKUP, "fx_int")
        assert not backup.is_verified
        for kind in ("CHECKSUM", "QUICK"):
            outcome = await manager.verify_backup(theirs, params=VerificationParams(verification_type=kind))
            assert (outcome.success, outcome.checksum_valid) == (True, None)
            assert "milvus-backup's own" in outcome.warnings[0]
        outcome = await manager.verify_backup(theirs)
        assert (outcome.details["rows_checked"], outcome.details["segments_checked"]) == (1882, 6)
    assert files_under(theirs) == before
    assert not root.exists()


async def test_earlier_layouts_are_read_where_they_lie(theirs: Path, root: Path) -> None:
    make_early(theirs)
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(theirs) as reader:
            assert as_told(pa.table(reader)) == told()
        assert (await manager.verify_backup(theirs)).success


@pytest.mark.parametrize("adopted", [False, True], ids=["where it lies", "taken in"])
@pytest.mark.parametrize(
    "note",
    [LAST - (1 << 18) * 10**7, LAST - (1 << 18) * 100, 1_795_000_000 << 18],
    ids=["before all rows", "before some", "seconds"],
)
async def test_where_replication_would_begin_is_not_taken_for_a_moment(note, adopted, theirs: Path, root: Path) -> None:
    # Since v0.4.15 milvus-backup notes the channels' positions from before its own flush; earlier versions, seconds.
    change_metadata(theirs, lambda collection: collection.update(backup_timestamp=note))
    async with BackupManager.connect(None, root) as manager:
        (backup,) = await manager.adopt_backup(theirs) if adopted else (await manager.get_backup(theirs),)
        assert backup.snapshot["kind"] == "fuzzy"
        with await manager.open_backup(backup.backup_id if adopted else theirs) as reader:
            assert as_told(pa.table(reader)) == told()


async def test_files_that_do_not_say_when_their_rows_were_written_are_read_the_same(theirs: Path, root: Path) -> None:
    moments = (LAST, LAST - (1 << 18) * 100, LAST - (1 << 18) * 3000)
    async with BackupManager.connect(None, root) as manager:
        seen: dict[str, list[object]] = {}
        for files in ("timed", "untimed"):
            if files == "untimed":
                make_untimed(theirs)
            (adopted,) = await manager.adopt_backup(theirs)
            rows: list[object] = [adopted.row_count, adopted.snapshot["timestamp"]]
            for reference in (adopted.backup_id, theirs):
                assert (await manager.verify_backup(reference)).success
                for moment in (None, *moments):
                    with await manager.open_backup(reference, as_of=moment) as reader:
                        rows.append(as_told(pa.table(reader)))
            seen[files] = rows
            assert await manager.delete_backup(adopted.backup_id)
    assert seen["untimed"] == seen["timed"]
    assert seen["timed"][2] == told() != seen["timed"][4]


async def test_a_segment_without_rows_and_files_is_none(theirs: Path, connect, lite: Milvus, name: str) -> None:
    def add(collection) -> None:
        for partition in collection["partition_backups"]:
            like = partition["segment_backups"][0]
            empty = {
                key: value for key, value in like.items() if "logs" not in key and key not in ("size", "num_of_rows")
            }
            number = like["segment_id"] + 10**6
            partition["segment_backups"].append(empty | {"segment_id": number, "group_id": number})

    change_metadata(theirs, add)
    async with connect(lite) as manager:
        assert (await manager.verify_backup(theirs)).success
        (adopted,) = await manager.adopt_backup(theirs)
        for kind in ("CHECKSUM", "QUICK"):
            params = VerificationParams(verification_type=kind, sample_size=100.0)
            assert (await manager.verify_backup(adopted.backup_id, params=params)).success
        with await manager.open_backup(adopted.backup_id) as reader:
            assert as_told(pa.table(reader)) == told()
        restored = await manager.restore_backup(theirs, params=RestoreParams(target_collection_name=name))
        restored.raise_for_error()
        assert restored.rows_restored == len(told())


async def test_deletes_that_hold_for_all_partitions_are_applied(theirs: Path, root: Path) -> None:
    def move_deletes(collection) -> None:
        number, moved = collection["collection_id"], []
        for partition in collection["partition_backups"]:
            for segment in partition["segment_backups"]:
                for field in filter(lambda field: field.get("binlogs"), segment.pop("deltalogs", [])):
                    place = [str(segment[part]) for part in ("partition_id", "group_id", "segment_id")]
                    source = theirs / "binlogs" / "delta_log" / str(number) / Path(*place)
                    target = theirs / "binlogs" / "delta_log" / str(number) / "-1" / str(segment["segment_id"] + 10**6)
                    target.parent.mkdir(exist_ok=True)
                    source.rename(target)
                    moved.append(
                        {"segment_id": segment["segment_id"] + 10**6, "collection_id": number, "partition_id": -1,
                         "deltalogs": [field], "is_l0": True}
                    )  # fmt: skip
        assert len(moved) == 4
        collection["l0_segments"] = moved

    change_metadata(theirs, move_deletes)
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(theirs) as reader:
            assert as_told(pa.table(reader)) == told()
        assert (await manager.verify_backup(theirs)).success
        gone = next(path for path in sorted(theirs.glob("binlogs/delta_log/*/-1/*/*")))
        gone.unlink()
        for fail_fast in (True, False):
            outcome = await manager.verify_backup(theirs, params=VerificationParams(fail_fast=fail_fast))
            assert any(gone.name in file for file in outcome.files_failed)
        with pytest.raises(BackupCorruptedError, match=gone.name):
            await manager.open_backup(theirs)


async def test_it_is_listed_in_a_repository_an_entry_for_each_collection(
    theirs: Path, lite: Milvus, connect, name: str, root: Path
) -> None:
    create(lite.client, name, plain(7))
    async with connect(lite) as manager:
        made = await manager.create_backup(name)
        shutil.copytree(theirs, root / "nightly")

        def another(meta: dict) -> None:
            second = json.loads(json.dumps(meta["collection_backups"][0]))
            second["collection_name"], second["db_name"] = "other", "shop"
            meta["collection_backups"].append(second)

        meta = json.loads((theirs / META).read_text())
        another(meta)
        shutil.copytree(theirs, root / "weekly")
        (root / "weekly" / META).write_text(json.dumps(meta))
    async with BackupManager.connect(None, root) as manager:
        everything = await manager.list_backups()
        owners = {(backup.backup_name, backup.collection_name, str(backup.owner)) for backup in everything}
        assert owners == {
            (made.backup_name, name, "MILVAULT"),
            ("nightly", "fx_int", "MILVUS_BACKUP"),
            ("weekly", "fx_int", "MILVUS_BACKUP"),
            ("weekly", "other", "MILVUS_BACKUP"),
        }
        times = [backup.created_at for backup in everything]
        assert times == sorted(times, reverse=True)
        assert len({backup.backup_id for backup in everything}) == 4
        assert [backup.backup_id for backup in await manager.list_backups(name)] == [made.backup_id]
        found = await manager.list_backups("fx_int")
        assert sorted(backup.backup_name for backup in found) == ["nightly", "weekly"]
        assert [backup.backup_name for backup in await manager.list_backups("fx_int", database="default")] == [
            backup.backup_name for backup in found
        ]
        assert [backup.backup_name for backup in await manager.list_backups(database="shop")] == ["weekly"]
        nightly = next(backup for backup in found if backup.backup_name == "nightly")
        assert nightly.created_at == datetime(2026, 11, 21, 6, 2, 22, tzinfo=timezone.utc)
        assert (nightly.row_count, nightly.segment_count, nightly.milvus_version) == (2018, 6, "v2.3.5-lite")
        assert nightly.storage_path == str(root / "nightly")
        # By its name, and by its id.
        for reference in ("nightly", nightly.backup_id):
            assert (await manager.get_backup(reference)).backup_id == nightly.backup_id
            with await manager.open_backup(reference) as reader:
                assert as_told(pa.table(reader)) == told()
            assert (await manager.verify_backup(reference)).success
        with pytest.raises(InvalidArgumentError, match=re.escape("default.fx_int, shop.other")):
            await manager.open_backup("weekly")
        with await manager.open_backup("weekly", "other", columns=["pk"]) as reader:
            assert sum(batch.num_rows for batch in reader) == 1882
        with pytest.raises(BackupNotFoundError):
            await manager.get_backup("weekly", "nowhere")
        (root / "nightly" / META).write_text("{")
        (damaged,) = (await manager.list_backups()).damaged
        assert (damaged.backup_id, damaged.storage_path) == ("nightly", str(root / "nightly"))
        assert "full_meta.json" in damaged.reason
        outcome = await manager.verify_backup("nightly")
        assert (outcome.success, outcome.files_failed) == (False, ["meta/full_meta.json"])


async def test_nothing_deletes_or_changes_it(theirs: Path, root: Path) -> None:
    shutil.copytree(theirs, root / "nightly")
    before = files_under(root)
    async with BackupManager.connect(None, root) as manager:
        (backup,) = await manager.list_backups()
        for reference in ("nightly", backup.backup_id, str(root / "nightly")):
            with pytest.raises(ForeignBackupError, match="milvus-backup's own") as caught:
                await manager.delete_backup(reference)
            assert caught.value.storage_path == str(root / "nightly")
            assert caught.value.backup_name == "nightly"
            with pytest.raises(ForeignBackupError, match="adopt_backup"):
                await manager.copy_backup(reference, to=root.parent / "elsewhere")
        nothing = {"retention_count": 0, "retention_days": 0, "min_backups_to_keep": 0}
        plan = await manager.apply_retention_policy(**nothing)
        assert (plan["backups_to_delete"], plan["deleted_backup_ids"], plan["kept"]) == (0, [], {})
        plan = await manager.apply_retention_policy("fx_int", **nothing)
        assert plan["backups_to_delete"] == 0
        assert list(await manager.verify_due()) == []
        await manager.verify_backup("nightly")
        assert not (await manager.get_backup("nightly")).is_verified
    assert files_under(root) == before
    assert not (root.parent / "elsewhere").exists()


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_would_restore_with_rows_missing_or_back_is_named(
    damage, theirs: Path, lite: Milvus, connect, name: str, root: Path
) -> None:
    named = damage(theirs)
    async with connect(lite) as manager:
        for fail_fast in (True, False):
            outcome = await manager.verify_backup(theirs, params=VerificationParams(fail_fast=fail_fast))
            assert not outcome.success
            assert any(named in text for text in outcome.files_failed + outcome.errors), outcome
        for checked in (True, False):
            params = RestoreParams(target_collection_name=name, verify_before_restore=checked)
            with pytest.raises(BackupCorruptedError, match=re.escape(named)):
                (await manager.restore_backup(theirs, params=params)).raise_for_error()
    assert not lite.client.has_collection(name)
    assert lite.staging() == []
    assert leftovers(root) == []


async def test_rows_of_a_damaged_backup_never_go_into_an_existing_collection(
    theirs: Path, lite: Milvus, connect, name: str
) -> None:
    async with connect(lite) as manager:
        params = RestoreParams(target_collection_name=name, load_after_restore=True)
        (await manager.restore_backup(theirs, params=params)).raise_for_error()
        lite.client.delete(name, filter="pk >= 0")
        last = max(theirs.glob("binlogs/insert_log/*/*/*/*/112/*"))
        content = last.read_bytes()
        last.write_bytes(content[:-9] + bytes(9))
        params = RestoreParams(target_collection_name=name, into_existing=True, verify_before_restore=False)
        with pytest.raises(BackupCorruptedError, match=last.name):
            (await manager.restore_backup(theirs, params=params)).raise_for_error()
    assert lite.client.query(name, filter="", output_fields=["count(*)"])[0]["count(*)"] == 0


async def test_files_that_the_metadata_does_not_name_are_told_of(theirs: Path, root: Path) -> None:
    file = min(theirs.glob("binlogs/insert_log/*/*/*/*/112/*"))
    shutil.copy(file, file.with_name("4711"))
    async with BackupManager.connect(None, root) as manager:
        outcome = await manager.verify_backup(theirs)
        assert outcome.success
        assert any("4711" in warning for warning in outcome.warnings)


async def test_it_restores_with_its_deletes_and_passes_a_trial_restore(
    theirs: Path, lite: Milvus, connect, name: str, root: Path
) -> None:
    async with connect(lite) as manager:
        params = RestoreParams(target_collection_name=name, load_after_restore=True)
        plan = await manager.restore_backup(theirs, params=params.model_copy(update={"dry_run": True}))
        assert plan.plan["rows"] == 1882
        restored = await manager.restore_backup(theirs, params=params)
        restored.raise_for_error()
        assert (restored.rows_restored, restored.verification_passed) == (1882, True)
        outcome = await manager.verify_backup(theirs, params=VerificationParams(verification_type="DEEP"))
        assert (outcome.success, outcome.deep_verification_passed) == (True, True)
    found = lite.client.query(name, filter="pk in [1, 2]", output_fields=["pk", "gen", "name"])
    assert {row["pk"]: row["gen"] for row in found} == {key: expected()[key]["gen"] for key in (1, 2)}
    assert lite.staging() == []
    assert leftovers(root) == []


async def test_its_earlier_moments_are_those_of_an_adopted_one(theirs: Path, root: Path) -> None:
    async with BackupManager.connect(None, root) as manager:
        (adopted,) = await manager.adopt_backup(theirs)
        latest = adopted.snapshot["timestamp"]
        for moment in (latest, LAST, LAST - (1 << 18) * 100, LAST - (1 << 18) * 3000, LAST - (1 << 18) * 10**7):
            seen = []
            for reference in (adopted.backup_id, theirs):
                with await manager.open_backup(reference, as_of=moment) as reader:
                    seen.append((reader.history, reader.history_reason, as_told(pa.table(reader))))
            assert seen[0] == seen[1]
        with pytest.raises(InvalidArgumentError, match="later than the moment"):
            await manager.open_backup(theirs, as_of=latest + (1 << 18))


async def test_what_is_no_such_backup_is_said(theirs: Path, tmp_path: Path, root: Path) -> None:
    async with BackupManager.connect(None, root) as manager:
        (adopted,) = await manager.adopt_backup(theirs)
        with pytest.raises(InvalidArgumentError, match="Milvault's own"):
            await manager.open_backup(adopted.storage_path)
        with pytest.raises(BackupNotFoundError, match="backup_meta"):
            await manager.open_backup(tmp_path)
        with pytest.raises(BackupNotFoundError, match="fx_int"):
            await manager.open_backup(theirs, "another")
        # A folder of ours is none of theirs, though its layout is the same.
        async with BackupManager.connect(None, root / "fx_int") as inner:
            assert list(await inner.list_backups()) == []
        change_metadata(theirs, lambda collection: collection.update(collection_name="../up"))
        with pytest.raises(BackupCorruptedError, match="up"):
            await manager.open_backup(theirs)
        meta = json.loads((theirs / META).read_text())
        (theirs / META).write_text(json.dumps(meta | {"format": "snapshot"}))
        with pytest.raises(SchemaIncompatibleError, match="snapshot"):
            await manager.open_backup(theirs)


async def test_a_path_without_a_slash_is_a_path(theirs: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(theirs.parent)
    async with BackupManager.connect(None, root) as manager:
        assert (await manager.get_backup(Path(theirs.name))).backup_name == theirs.name
        with pytest.raises(BackupNotFoundError):
            await manager.get_backup(theirs.name)


async def test_it_is_read_from_an_object_store(theirs: Path, bucket: str, s3_server, root: Path) -> None:
    client = s3_server.client()
    for path in sorted(theirs.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"backups/nightly/{path.relative_to(theirs)}")
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(f"s3://{bucket}/backups/nightly") as reader:
            assert as_told(pa.table(reader)) == told()
    async with BackupManager.connect(None, f"s3://{bucket}/backups") as manager:
        assert await manager.list_backups("fx_int") == []  # that would take a request for each folder
        (listed,) = await manager.list_backups()
        assert (listed.backup_name, listed.owner) == ("nightly", "MILVUS_BACKUP")
        assert (await manager.verify_backup("nightly")).success
        client.delete_object(Bucket=bucket, Key=f"backups/nightly/{_a_delete(theirs)}")
        outcome = await manager.verify_backup("nightly")
        assert outcome.files_failed == [_a_delete(theirs)]


async def test_a_repository_without_such_backups_is_asked_for_nothing_more(bucket: str, s3_server, root: Path) -> None:
    fill(root, 6, ("articles", "films"), datetime.now(timezone.utc))
    client = s3_server.client()
    for path in root.rglob("*.json"):
        client.upload_file(str(path), bucket, f"backups/{path.relative_to(root)}")
    async with BackupManager.connect(None, f"s3://{bucket}/backups") as manager:
        before = len(s3_server.requests(bucket))
        assert len(await manager.list_backups()) == 6
        asked = s3_server.requests(bucket)[before:]
        # The root, two folders, and of each backup its manifest and its last verification.
        assert len(asked) == 1 + 2 + 6 * 2
        assert len(await manager.list_backups("films")) == 3
        # The root, and one folder with three backups.
        assert len(s3_server.requests(bucket)) - before - len(asked) == 1 + 1 + 3 * 2


def _a_delete(theirs: Path) -> str:
    return str(min(path for path in theirs.glob("binlogs/delta_log/**/*") if path.is_file()).relative_to(theirs))


@pytest.mark.server
@pytest.mark.parametrize("kind", ["partitioned", "partition_key"])
async def test_what_a_server_wrote_comes_back_by_every_way(kind, calm, calm_native, name, root: Path, tmp_path: Path):
    recipe = RECIPES[kind]()
    create(calm.client, name, recipe)
    change(calm, name, recipe, sorted(read_all(calm.client, name)))
    living = read_all(calm.client, name)
    async with calm_native() as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        theirs = as_milvus_backup_keeps_it(Path(made.storage_path), tmp_path / "theirs")
        moment = (await manager.get_backup(theirs)).snapshot
        assert moment["timestamp"] == made.metadata.snapshot["timestamp"]
        assert (await manager.verify_backup(theirs)).success
        for via in (RestoreVia.INSERT, RestoreVia.IMPORT):
            if via is RestoreVia.IMPORT and kind == "partition_key":
                continue
            params = RestoreParams(target_collection_name=f"{name}_{via.lower()}", via=via, load_after_restore=True)
            restored = await manager.restore_backup(theirs, params=params)
            restored.raise_for_error()
            assert (restored.rows_restored, restored.verification_passed) == (len(living), True)
            assert read_all(calm.client, f"{name}_{via.lower()}") == living
        assert restored.verification_details.get("via") == (None if kind == "partition_key" else "IMPORT")
    assert calm.staging() == []
