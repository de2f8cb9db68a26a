"""Restores by the server's own Import: the same rows, the same proof, and none of its silent failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from milvault import (
    BackupCorruptedError,
    BackupParams,
    InvalidArgumentError,
    RestoreParams,
    RestoreVia,
)
from tests.backup_files import leftovers
from tests.native.test_rows import _auto_id, change, digest_of, make_collection
from tests.recipes import RECIPES, create, plain, read_all

pytestmark = [pytest.mark.server]


@pytest.mark.parametrize("kind", ["plain", "awkward_strings", "every_scalar", "every_array", "dynamic", "partitioned"])
async def test_an_import_brings_the_same_rows(kind, calm, calm_native, name):
    recipe = RECIPES[kind]()
    create(calm.client, name, recipe)
    change(calm, name, recipe, sorted(read_all(calm.client, name)))
    living = read_all(calm.client, name)
    async with calm_native() as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        scanned = await manager.create_backup(name, BackupParams(storage_type="LOCAL_FILE", source="query"))
        params = RestoreParams(target_collection_name=f"{name}_back", via=RestoreVia.IMPORT, load_after_restore=True)
        restored = await manager.restore_backup(made.backup_id, params=params)
        restored.raise_for_error()
        assert (restored.rows_restored, restored.verification_passed) == (len(living), True)
        assert int(restored.verification_details["digest"], 16) == digest_of(scanned)[1]
        assert restored.verification_details["via"] == "IMPORT"
    assert read_all(calm.client, f"{name}_back") == living


async def test_keys_that_the_server_made_are_kept_and_stay_the_servers(calm, calm_native, name):
    recipe = _auto_id()
    make_collection(calm, name, recipe)
    living = read_all(calm.client, name)
    async with calm_native() as manager:
        made = await manager.create_backup(name)
        params = RestoreParams(target_collection_name=f"{name}_back", via="IMPORT", load_after_restore=True)
        restored = await manager.restore_backup(made.backup_id, params=params)
        restored.raise_for_error()
    assert read_all(calm.client, f"{name}_back") == living
    assert calm.client.describe_collection(f"{name}_back")["auto_id"]


async def test_a_repository_behind_a_symbolic_link_is_found(calm, calm_native, name, root: Path):
    create(calm.client, name, plain(300))
    (root.parent / "elsewhere").mkdir()
    root.symlink_to(root.parent / "elsewhere")
    async with calm_native() as manager:
        made = await manager.create_backup(name)
        params = RestoreParams(target_collection_name=f"{name}_back", via="IMPORT")
        restored = await manager.restore_backup(made.backup_id, params=params)
        restored.raise_for_error()
        assert restored.rows_restored == 300


async def test_files_that_the_server_does_not_see_are_no_silent_loss(calm, calm_native, connect, name, bucket):
    create(calm.client, name, plain(300))
    there = f"s3://{bucket}/backups"
    async with calm_native(root=there) as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
    # By the settings the server keeps its files in the bucket, where it would see the backup; in truth it does not.
    async with calm_native(root=there, milvus_storage=f"s3://{bucket}/files") as manager:
        params = RestoreParams(target_collection_name=f"{name}_back", via="IMPORT")
        restored = await manager.restore_backup(made.backup_id, params=params)
        assert not restored.success
        assert "INSERT" in restored.error_message
        assert not calm.client.has_collection(f"{name}_back")
        # Left to itself, it inserts what could not be imported.
        params = RestoreParams(target_collection_name=f"{name}_back", load_after_restore=True)
        restored = await manager.restore_backup(made.backup_id, params=params)
        restored.raise_for_error()
        assert "via" not in restored.verification_details
    assert read_all(calm.client, f"{name}_back") == read_all(calm.client, name)
    assert calm.staging() == []


async def test_a_damaged_file_never_reaches_the_server(calm, calm_native, name, root: Path):
    create(calm.client, name, plain(300))
    async with calm_native() as manager:
        made = await manager.create_backup(name)
        files = sorted(path for path in Path(made.storage_path).glob("binlogs/insert_log/**/*") if path.is_file())
        content = bytearray(files[-1].read_bytes())
        content[len(content) // 2] ^= 1
        files[-1].write_bytes(content)
        for checked in (True, False):
            params = RestoreParams(target_collection_name=f"{name}_back", via="IMPORT", verify_before_restore=checked)
            with pytest.raises(BackupCorruptedError, match=files[-1].name):
                (await manager.restore_backup(made.backup_id, params=params)).raise_for_error()
        assert not calm.client.has_collection(f"{name}_back")
    assert calm.staging() == []
    assert leftovers(root) == []


async def test_a_file_that_is_not_the_backups_never_reaches_the_server(calm, calm_native, name):
    create(calm.client, name, plain(300))
    living = read_all(calm.client, name)
    async with calm_native(auto_verify_before_restore=False) as manager:
        made = await manager.create_backup(name)
        (partition,) = Path(made.storage_path).glob("binlogs/insert_log/*/*")
        stray = partition / "9/9/100/1"
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"no binlog")
        params = RestoreParams(target_collection_name=f"{name}_back", via="IMPORT", verify_before_restore=False)
        with pytest.raises(InvalidArgumentError, match="9/9/100/1 is no file of it"):
            await manager.restore_backup(made.backup_id, params=params)
        params = params.model_copy(update={"via": RestoreVia.AUTO, "load_after_restore": True})
        restored = await manager.restore_backup(made.backup_id, params=params)
        restored.raise_for_error()
        assert restored.verification_details.get("via", "INSERT") == "INSERT"
    assert read_all(calm.client, f"{name}_back") == living


async def test_what_cannot_be_imported_is_said_before_anything_is_made(calm, calm_native, connect, name, root: Path):
    create(calm.client, name, RECIPES["partition_key"]())
    async with calm_native() as manager:
        native = await manager.create_backup(name)
        rows = await manager.create_backup(name, BackupParams(storage_type="LOCAL_FILE"))
        for backup, arguments, words in [
            (native, {}, "partition key"),
            (rows, {}, "not a native one"),
            (native, {"as_of": native.metadata.snapshot["timestamp"]}, "as_of"),
        ]:
            params = RestoreParams(target_collection_name=f"{name}_back", via="IMPORT", **arguments)
            with pytest.raises(InvalidArgumentError, match=words):
                await manager.restore_backup(backup.backup_id, params=params)
    assert calm.staging() == []
