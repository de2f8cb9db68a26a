"""Listing, finding, verifying and deleting backups; a repository needs no server for that."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import pytest

from milvault import (
    BackupAlreadyExistsError,
    BackupManager,
    BackupNotFoundError,
    BackupParams,
    BackupState,
    CollectionNotFoundError,
    InvalidArgumentError,
    RestoreParams,
)
from tests.backup_files import leftovers
from tests.recipes import create, plain


@pytest.fixture
async def three_backups(lite, connect, name):
    create(lite.client, name, plain(30))
    create(lite.client, f"{name}_other", plain(5))
    made = []
    async with connect(lite) as manager:
        for number, tags in enumerate((["nightly"], ["nightly", "kept"], [])):
            params = BackupParams(backup_name=f"backup-{number}", tags=tags)
            made.append(await manager.create_backup(name, params))
        made.append(await manager.create_backup(f"{name}_other"))
    assert all(result.success for result in made)
    return made


async def test_backups_are_listed_newest_first_and_without_a_server(three_backups, connect, name):
    async with connect(None) as manager:
        listed = await manager.list_backups(name)
        everything = await manager.list_backups()
    assert {backup.backup_id for backup in listed} == {result.backup_id for result in three_backups[:3]}
    times = [backup.created_at for backup in listed]
    assert times == sorted(times, reverse=True)
    assert len(everything) == 4
    assert all(backup.created_at.utcoffset() == dt.timedelta(0) for backup in listed)


async def test_lists_can_be_narrowed_and_paged(three_backups, connect, name):
    async with connect(None) as manager:
        assert len(await manager.list_backups(name, tags=["nightly"])) == 2
        assert len(await manager.list_backups(name, tags=["nightly", "kept"])) == 1
        assert len(await manager.list_backups(name, state=BackupState.FAILED)) == 0
        first, rest = await manager.list_backups(limit=1), await manager.list_backups(offset=1)
        assert len(first) == 1
        assert len(rest) == 3
        later = dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=1)
        assert await manager.list_backups(created_after=later) == []
        with pytest.raises(InvalidArgumentError, match="zone"):
            await manager.list_backups(created_after=dt.datetime(2026, 1, 1))


async def test_a_backup_is_found_by_its_id_and_by_its_name(three_backups, connect, name):
    wanted = three_backups[1]
    async with connect(None) as manager:
        for reference in (wanted.backup_id, "backup-1"):
            for collection in (name, None):
                found = await manager.get_backup(reference, collection)
                assert found.backup_id == wanted.backup_id
                assert found.tags == ["nightly", "kept"]
                assert found.row_count == 30
                assert found.collection_name == name


async def test_an_unknown_backup_is_an_error_that_names_it(three_backups, connect, name):
    async with connect(None) as manager:
        for method in (manager.get_backup, manager.verify_backup, manager.delete_backup):
            with pytest.raises(BackupNotFoundError, match="backup-9"):
                await method("backup-9", name)
        with pytest.raises(BackupNotFoundError):
            await manager.get_backup("backup-1", f"{name}_other")


async def test_restoring_an_unknown_backup_is_an_error(lite, connect, name):
    async with connect(lite) as manager:
        with pytest.raises(BackupNotFoundError, match="nothing-like-it"):
            await manager.restore_backup("nothing-like-it", name)


async def test_a_name_that_is_taken_is_refused_and_says_by_what(three_backups, lite, connect, name, root):
    before = sorted(root.rglob("*"))
    async with connect(lite) as manager:
        with pytest.raises(BackupAlreadyExistsError, match="backup-1") as failure:
            await manager.create_backup(name, BackupParams(backup_name="backup-1"))
        elsewhere = await manager.create_backup(f"{name}_other", BackupParams(backup_name="backup-1"))
        assert elsewhere.success  # names are unique within a collection, no further
    assert failure.value.backup_name == "backup-1"
    assert failure.value.existing_backup_id == three_backups[1].backup_id
    assert [path for path in sorted(root.rglob("*")) if f"{name}_other" not in str(path)] == [
        path for path in before if f"{name}_other" not in str(path)
    ]


async def test_a_verification_is_remembered(lite, connect, name):
    create(lite.client, name, plain(20))
    async with connect(lite, auto_verify_after_backup=False) as manager:
        backup = await manager.create_backup(name)
        assert (await manager.get_backup(backup.backup_id)).is_verified is False
        result = await manager.verify_backup(backup.backup_id, name)
        assert result.success
        assert result.checksum_valid is True
        assert result.files_failed == []
        found = await manager.get_backup(backup.backup_id)
    assert found.is_verified is True
    assert abs((found.last_verified_at - result.verified_at).total_seconds()) < 1


async def test_a_backup_is_verified_after_it_is_made(lite, connect, name):
    create(lite.client, name, plain(20))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    assert backup.state in (BackupState.COMPLETED, BackupState.VERIFIED)
    assert backup.metadata.is_verified
    assert backup.verification.success
    assert backup.verification.files_verified > 0


async def test_deleting_leaves_the_others_and_no_trace(three_backups, connect, name, root):
    gone, kept = three_backups[0], three_backups[1]
    async with connect(None) as manager:
        assert await manager.delete_backup("backup-0", name) is True
        with pytest.raises(BackupNotFoundError):
            await manager.get_backup(gone.backup_id, name)
        assert (await manager.verify_backup(kept.backup_id, name)).success
        assert not Path(gone.storage_path).exists()
        for result in three_backups[1:3]:
            await manager.delete_backup(result.backup_id, name)
        assert await manager.list_backups(name) == []
    assert leftovers(root) == []


async def test_a_manager_survives_several_event_loops(lite, connect, name):
    create(lite.client, name, plain(20))
    manager = connect(lite)

    def in_its_own_loop(make_work):
        async def work():
            return await make_work()

        return asyncio.run(work())

    made = await asyncio.to_thread(in_its_own_loop, lambda: manager.create_backup(name))
    assert made.success
    assert len(await asyncio.to_thread(in_its_own_loop, lambda: manager.list_backups(name))) == 1
    await manager.close()


async def test_backups_of_several_collections_run_side_by_side(lite, connect, name):
    names = [f"{name}_{number}" for number in range(4)]
    for number, collection in enumerate(names):
        create(lite.client, collection, plain(200 + number))
    async with connect(lite) as manager:
        results = await asyncio.gather(*(manager.create_backup(collection) for collection in names))
    assert [result.row_count for result in results] == [200, 201, 202, 203]


async def test_a_missing_collection_is_an_error_that_names_it(lite, connect, name, root):
    async with connect(lite) as manager:
        with pytest.raises(CollectionNotFoundError, match=name) as failure:
            await manager.create_backup(name)
    assert isinstance(failure.value, LookupError)
    assert failure.value.collection_name == name
    assert leftovers(root) == []


async def test_the_quick_start_of_the_contract_runs(lite, tmp_path, name, monkeypatch, capsys):
    # ConnectionManager() takes its address from the environment.
    from milvault import BackupRecoveryConfig, BackupType, CollectionManager, ConnectionManager

    create(lite.client, name, plain(20))
    monkeypatch.setenv("MILVAULT_URI", lite.uri)
    connection_manager = ConnectionManager()
    collection_manager = CollectionManager(connection_manager)
    config = BackupRecoveryConfig(local_backup_root_path=str(tmp_path / "backups"), compression_enabled=True)
    backup_manager = BackupManager(
        connection_manager=connection_manager, collection_manager=collection_manager, config=config
    )
    result = await backup_manager.create_backup(
        collection_name=name, params=BackupParams(backup_type=BackupType.FULL_COLLECTION, compression_enabled=True)
    )
    assert result.success, result.error_message
    assert result.size_mb > 0
    backups = await backup_manager.list_backups(collection_name=name)
    assert backups[0].backup_type.value == "FULL_COLLECTION"
    assert backups[0].state.value in ("COMPLETED", "VERIFIED")
    restored = await backup_manager.restore_backup(
        backup_id=result.backup_id,
        collection_name=name,
        params=RestoreParams(
            target_collection_name=f"{name}_restored",
            verify_before_restore=True,
            drop_existing=False,
            load_after_restore=True,
        ),
    )
    assert f"{restored.rows_restored:,}" == "20"
    assert await backup_manager.delete_backup(backup_id=result.backup_id, collection_name=name)
    await backup_manager.close()
