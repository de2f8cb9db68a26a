"""Backups that milvus-backup made: taken in whole, or refused by name where it would restore them with rows missing."""

from __future__ import annotations

import json
import re
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
from tests.native.theirs import DAMAGES, DATA, as_told, expected, make_early


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
    make_early(theirs)
    async with BackupManager.connect(None, root) as manager:
        (backup,) = await manager.adopt_backup(theirs)
        assert backup.row_count == 1882


@pytest.mark.parametrize("damage", DAMAGES)
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
