"""Backups that milvus-backup made: taken in whole, or refused by name where it would restore them with rows missing."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from milvault import (
    BackupAlreadyExistsError,
    BackupCorruptedError,
    BackupManager,
    BackupNotFoundError,
    RestoreParams,
    SchemaIncompatibleError,
    VerificationParams,
    VerificationType,
)
from tests.backup_files import leftovers
from tests.conftest import Milvus

DATA = Path(__file__).parent.parent / "data" / "milvus-backup"
LAST = 470611627054465025
"""When the last of its rows were written, as a hybrid timestamp."""


def expected() -> dict[int, dict[str, object]]:
    """The rows that lived, by key, as the server told them when the backup was made."""
    lines = gzip.decompress((DATA / "fx_int.expected.jsonl.gz").read_bytes()).decode().splitlines()
    return {row["pk"]: row for row in map(json.loads, lines)}


def as_told(table: pa.Table) -> dict[int, dict[str, object]]:
    """Rows of a table as `expected` has them, partitions left out."""
    rows = {}
    for row in table.to_pylist():
        dynamic = json.loads(row.pop("$meta"))
        rows[row["pk"]] = row | dynamic | {"j": json.loads(row["j"])}
    return rows


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A copy of a backup by milvus-backup, to be damaged."""
    return Path(shutil.copytree(DATA / "fx_int", tmp_path / "theirs"))


async def test_a_real_backup_gives_exactly_the_rows_that_lived(root: Path) -> None:
    async with BackupManager.connect(None, root) as manager:
        (backup,) = await manager.adopt_backup(DATA / "fx_int")
        assert (backup.collection_name, backup.backup_name, backup.row_count) == ("fx_int", "fx_int", 1882)
        assert backup.is_verified
        with await manager.open_backup("fx_int") as reader:
            assert reader.row_count == 1882
            rows = as_told(pa.table(reader))
        told = expected()
        for row in told.values():
            del row["_partition"]
        assert rows == told
        for partition in ("_default", "p1"):
            with await manager.open_backup("fx_int", columns=["pk"], partition_names=[partition]) as reader:
                keys = set(pa.table(reader)["pk"].to_pylist())
            assert keys == {key for key, row in expected().items() if row["_partition"] == partition}
        with await manager.open_backup("fx_int", columns=["name"], where="i8 == -127 and flag == false") as reader:
            names = pa.table(reader)["name"].to_pylist()
        assert sorted(names) == sorted(row["name"] for row in told.values() if row["i8"] == -127 and not row["flag"])
        for kind in (VerificationType.CHECKSUM, VerificationType.QUICK):
            assert (await manager.verify_backup("fx_int", params=VerificationParams(verification_type=kind))).success
        with pytest.raises(BackupAlreadyExistsError):
            await manager.adopt_backup(DATA / "fx_int")
        assert [listed.backup_id for listed in await manager.list_backups()] == [backup.backup_id]
    assert leftovers(root) == []


async def test_it_restores_into_milvus_lite_with_its_deletes(lite: Milvus, connect, name: str, root: Path) -> None:
    async with connect(lite) as manager:
        (backup,) = await manager.adopt_backup(DATA / "fx_int")
        params = RestoreParams(target_collection_name=name, load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, params=params)
        restored.raise_for_error()
        assert (restored.rows_restored, restored.verification_passed) == (1882, True)
        assert restored.verification_details["digest"] == restored.verification_details["expected_digest"]
    found = lite.client.query(name, filter="pk in [1, 2]", output_fields=["pk", "gen", "name"])
    assert {row["pk"]: row["gen"] for row in found} == {key: expected()[key]["gen"] for key in (1, 2)}


async def test_earlier_layouts_without_groups_and_with_level_files_alone_are_read(theirs: Path, root: Path) -> None:
    for kind in ("insert_log", "delta_log"):
        for segment in list((theirs / "binlogs" / kind).glob("*/*/*/*")):
            segment.rename(segment.parent.parent / f"{segment.name}.moved")
        for moved in list((theirs / "binlogs" / kind).glob("*/*/*.moved")):
            shutil.rmtree(moved.with_suffix(""))
            moved.rename(moved.with_suffix(""))
    (theirs / "meta" / "full_meta.json").unlink()
    segments = json.loads((theirs / "meta" / "segment_meta.json").read_text())
    for segment in segments["infos"]:
        del segment["group_id"]
        for field in segment["binlogs"]:
            for log in field["binlogs"]:
                del log["log_id"]
    (theirs / "meta" / "segment_meta.json").write_text(json.dumps(segments))
    async with BackupManager.connect(None, root) as manager:
        (backup,) = await manager.adopt_backup(theirs)
        assert backup.row_count == 1882


def _one(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def _without_segment(theirs: Path) -> str:
    segment = _one(theirs, "binlogs/insert_log/*/*/*/*")
    shutil.rmtree(segment)
    return segment.name


def _without_deletes(theirs: Path) -> str:
    delta = next(path for path in sorted(theirs.glob("binlogs/delta_log/**/*")) if path.is_file())
    delta.unlink()
    return delta.name


def _without_field(theirs: Path) -> str:
    field = _one(theirs, "binlogs/insert_log/*/*/*/*/107")
    shutil.rmtree(field)
    return "107"


def _flipped(theirs: Path) -> str:
    file = _one(theirs, "binlogs/insert_log/*/*/*/*/112/*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)
    return file.name


def _cut(theirs: Path) -> str:
    file = _one(theirs, "binlogs/insert_log/*/*/*/*/100/*")
    file.write_bytes(file.read_bytes()[:-7])
    return file.name


def _unnamed_field(theirs: Path) -> str:
    """The metadata does not know the field's files any more."""
    meta = json.loads((theirs / "meta" / "full_meta.json").read_text())
    segment = meta["collection_backups"][0]["partition_backups"][0]["segment_backups"][0]
    segment["binlogs"] = [field for field in segment["binlogs"] if field.get("fieldID") != 106]
    (theirs / "meta" / "full_meta.json").write_text(json.dumps(meta))
    return "i64"


def _more_rows(theirs: Path) -> str:
    """The metadata promises more rows than there are."""
    meta = json.loads((theirs / "meta" / "full_meta.json").read_text())
    segment = meta["collection_backups"][0]["partition_backups"][0]["segment_backups"][0]
    segment["num_of_rows"] += 1
    (theirs / "meta" / "full_meta.json").write_text(json.dumps(meta))
    return str(segment["segment_id"])


def _broken_metadata(theirs: Path) -> str:
    (theirs / "meta" / "full_meta.json").write_text("{")
    return "full_meta.json"


@pytest.mark.parametrize(
    "damage",
    [
        _without_segment,
        _without_deletes,
        _without_field,
        _flipped,
        _cut,
        _unnamed_field,
        _more_rows,
        _broken_metadata,
    ],
)
async def test_what_would_restore_with_rows_missing_or_back_is_refused_by_name(
    damage, theirs: Path, root: Path
) -> None:
    named = damage(theirs)
    async with BackupManager.connect(None, root) as manager:
        with pytest.raises(BackupCorruptedError, match=re.escape(named)):
            await manager.adopt_backup(theirs)
        assert list(await manager.list_backups()) == []
    assert leftovers(root) == []


async def test_what_is_no_such_backup_is_said(theirs: Path, tmp_path: Path, root: Path) -> None:
    async with BackupManager.connect(None, root) as manager:
        with pytest.raises(BackupNotFoundError, match="backup_meta"):
            await manager.adopt_backup(tmp_path)
        with pytest.raises(BackupNotFoundError, match="fx_int"):
            await manager.adopt_backup(theirs, "another")
        meta = json.loads((theirs / "meta" / "full_meta.json").read_text())
        (theirs / "meta" / "full_meta.json").write_text(json.dumps(meta | {"format": "snapshot"}))
        with pytest.raises(SchemaIncompatibleError, match="snapshot"):
            await manager.adopt_backup(theirs)
