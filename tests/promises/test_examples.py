"""Each example that the contract was written from, in words of our own, with the same calls and arguments."""

from __future__ import annotations

import asyncio
import hashlib
import json
from datetime import datetime
from pathlib import Path

import pytest

from milvault import (
    BackupCorruptedError,
    BackupError,
    BackupManager,
    BackupParams,
    BackupRecoveryConfig,
    BackupState,
    BackupStorageType,
    BackupType,
    ChecksumAlgorithm,
    CollectionManager,
    ConnectionManager,
    InsufficientStorageError,
    PartitionNotFoundError,
    RestoreParams,
    VerificationParams,
    VerificationType,
)
from tests.promises.conftest import PARTITIONS, ROWS, recipe
from tests.recipes import count, expected, read_all

pytestmark = pytest.mark.embedded


def test_the_quick_start_makes_a_backup_from_a_plain_script(collection, tmp_path, capsys):
    async def script() -> None:
        connection_manager = ConnectionManager()
        collection_manager = CollectionManager(connection_manager)
        config = BackupRecoveryConfig(local_backup_root_path=tmp_path / "place", compression_enabled=True)
        backup_manager = BackupManager(
            connection_manager=connection_manager, collection_manager=collection_manager, config=config
        )
        result = await backup_manager.create_backup(
            collection_name="my_collection",
            params=BackupParams(backup_type=BackupType.FULL_COLLECTION, compression_enabled=True),
        )
        if result.success:
            print(f"made {result.backup_id}")
            print(f"of {result.size_mb:.2f} MB")
        else:
            print(f"failed: {result.error_message}")

    asyncio.run(script())
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("made b20")
    assert told[1] == "of 0.00 MB"
    assert len(list((tmp_path / "place" / collection).glob("b20*/metadata.json"))) == 1


def test_every_setting_can_be_said_and_these_are_the_defaults():
    said = BackupRecoveryConfig(
        default_storage_type=BackupStorageType.LOCAL_FILE,
        local_backup_root_path="./milvus_backups",
        milvus_backup_bucket=None,
        default_chunk_size_mb=256,
        max_concurrent_chunks=4,
        compression_enabled=True,
        compression_level=6,
        enable_checksum_verification=True,
        checksum_algorithm=ChecksumAlgorithm.SHA256,
        auto_verify_after_backup=True,
        auto_verify_before_restore=True,
        default_backup_timeout=3600.0,
        default_restore_timeout=3600.0,
        retention_count=10,
        retention_days=30,
        min_backups_to_keep=3,
    )
    assert said == BackupRecoveryConfig()


async def test_a_whole_collection_with_its_indexes(backup_manager, collection):
    result = await backup_manager.create_backup(
        collection_name="my_collection",
        params=BackupParams(backup_type=BackupType.FULL_COLLECTION, compression_enabled=True, include_indexes=True),
    )
    assert (result.success, result.row_count, result.state) == (True, ROWS, BackupState.VERIFIED)
    assert result.metadata.is_full_backup
    assert Path(result.storage_path, "indexes", "vector.json").exists()
    # The folder is as promised.
    files = {str(path.relative_to(result.storage_path)) for path in Path(result.storage_path).rglob("*.*")}
    assert {"metadata.json", "schema.json", "checksums.json", "indexes/vector.json"} <= files
    assert len([file for file in files if file.startswith("data/") and file.endswith(".parquet")]) == 3


async def test_only_some_partitions(backup_manager, collection, lite):
    result = await backup_manager.create_backup(
        collection_name="my_collection",
        params=BackupParams(
            backup_type=BackupType.PARTITION,
            partition_names=["partition_2024_01", "partition_2024_02"],
            compression_enabled=True,
        ),
    )
    assert (result.success, result.row_count) == (True, 60)
    assert result.metadata.is_partition_backup
    assert sorted(result.metadata.partition_names) == ["partition_2024_01", "partition_2024_02"]


async def test_backups_are_listed_with_what_one_asks_of_them(backup_manager, collection):
    made = await backup_manager.create_backup("my_collection")
    backups = await backup_manager.list_backups(collection_name="my_collection")
    lines = []
    for backup in backups:
        lines += [
            f"{backup.backup_name}",
            f"{backup.backup_id}",
            f"{backup.created_at}",
            f"{backup.size_mb:.2f} MB",
            f"{backup.backup_type.value}",
            f"{backup.state.value}",
        ]
    assert lines[0].startswith("my_collection_20")
    assert lines[1] == made.backup_id
    assert datetime.fromisoformat(lines[2]).utcoffset().total_seconds() == 0
    assert lines[3:] == ["0.00 MB", "FULL_COLLECTION", "VERIFIED"]


async def test_a_backup_is_verified_by_its_checksums(backup_manager, collection):
    backup_id = (await backup_manager.create_backup("my_collection")).backup_id
    ask = {
        "backup_id": backup_id,
        "collection_name": "my_collection",
        "params": VerificationParams(verification_type=VerificationType.CHECKSUM, fail_fast=True),
    }
    result = await backup_manager.verify_backup(**ask)
    assert (result.success, result.errors, result.has_errors) == (True, [], False)
    (damaged_file,) = (Path((await backup_manager.get_backup(backup_id)).storage_path) / "data").glob("_default*")
    damaged_file.write_bytes(b"something else")
    result = await backup_manager.verify_backup(**ask)
    assert not result.success
    assert "_default-00000.parquet" in f"{result.errors}"


async def test_a_backup_is_restored_under_another_name(backup_manager, collection, lite):
    backup_id = (await backup_manager.create_backup("my_collection")).backup_id
    result = await backup_manager.restore_backup(
        backup_id=backup_id,
        collection_name="my_collection",
        params=RestoreParams(
            target_collection_name="my_collection_restored",
            verify_before_restore=True,
            drop_existing=False,
            load_after_restore=True,
        ),
    )
    assert result.success, result.error_message
    assert f"{result.rows_restored:,}" == f"{ROWS}"
    assert read_all(lite.client, "my_collection_restored") == expected(recipe())
    assert set(result.partitions_restored) == set(PARTITIONS)


async def test_a_backup_is_deleted(backup_manager, collection):
    backup_id = (await backup_manager.create_backup("my_collection")).backup_id
    success = await backup_manager.delete_backup(backup_id=backup_id, collection_name="my_collection")
    assert success is True
    assert await backup_manager.list_backups("my_collection") == []


async def test_compression_has_levels_from_one_to_nine(backup_manager, collection):
    for level in (1, 9):
        params = BackupParams(backup_type=BackupType.FULL_COLLECTION, compression_enabled=True, compression_level=level)
        result = await backup_manager.create_backup("my_collection", params)
        assert (result.success, result.metadata.compression_level) == (True, level)


def test_a_retention_policy_can_be_configured():
    config = BackupRecoveryConfig(retention_count=10, retention_days=30, min_backups_to_keep=3)
    assert (config.retention_count, config.retention_days, config.min_backups_to_keep) == (10, 30, 3)


async def test_each_error_reaches_its_own_clause(backup_manager, collection, monkeypatch):
    async def told(**arguments) -> str:
        try:
            result = await backup_manager.create_backup(**arguments)
            result.raise_for_error()
        except BackupError as e:
            return f"backup: {e} {e.collection_name}"
        except InsufficientStorageError as e:
            return f"space: {e} {e.required_gb:.2f} {e.available_gb:.2f}"
        except PartitionNotFoundError as e:
            return f"partition: {e.partition_name} {e.available_partitions}"
        except Exception as e:  # noqa: BLE001 - as in the example
            return f"unexpected: {e}"
        return "fine"

    params = BackupParams(backup_type=BackupType.PARTITION, partition_names=["partition_2025_01"])
    assert await told(collection_name=collection) == "fine"
    assert (await told(collection_name="not_there")).startswith("backup: ")
    assert (await told(collection_name="not_there")).endswith(" not_there")
    unknown = await told(collection_name=collection, params=params)
    assert unknown.startswith("partition: partition_2025_01 [")
    assert all(name in unknown for name in PARTITIONS)
    # `create_backup(...)`, as in the example: an ellipsis is no collection's name.
    assert (await told(collection_name=...)).startswith("unexpected: collection_name has to be a name")


@pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
async def test_the_algorithm_of_the_checksums_can_be_chosen(collection, tmp_path, algorithm):
    config = BackupRecoveryConfig(local_backup_root_path=str(tmp_path / "backups"), checksum_algorithm=algorithm)
    async with BackupManager(connection_manager=ConnectionManager(), config=config) as manager:
        result = await manager.create_backup(collection)
    sums = json.loads(Path(result.storage_path, "checksums.json").read_text())
    schema = Path(result.storage_path, "schema.json").read_bytes()
    assert result.metadata.checksum_algorithm is algorithm
    assert sums["files"]["schema.json"]["checksum"] == hashlib.new(algorithm.value.lower(), schema).hexdigest()


async def test_a_migration_begins_with_a_backup_that_is_verified(backup_manager, collection, lite, capsys):
    async def migrate(collection_name: str) -> bool:
        backup_result = await backup_manager.create_backup(
            collection_name=collection_name,
            params=BackupParams(
                backup_name=f"pre_migration_{datetime.now().strftime('%Y%m%d_%H%M%S')}",
                backup_type=BackupType.FULL_COLLECTION,
                compression_enabled=True,
            ),
        )
        if not backup_result.success:
            print(f"no backup: {backup_result.error_message}")
            return False
        verify_result = await backup_manager.verify_backup(
            backup_id=backup_result.backup_id, collection_name=collection_name
        )
        if not verify_result.success:
            print(f"not sound: {verify_result.errors}")
            return False
        lite.client.drop_collection(collection_name)  # the migration
        return True

    assert await migrate(collection) is True
    # and what it was for
    (made,) = await backup_manager.list_backups(collection)
    assert made.backup_name.startswith("pre_migration_20")
    restored = await backup_manager.restore_backup(made.backup_name, collection)
    assert restored.rows_restored == ROWS
    assert count(lite.client, collection) == ROWS
    # A backup that is damaged as soon as it is made is not gone on with.
    original = backup_manager.create_backup

    async def damaged(*args, **kwargs):
        result = await original(*args, **kwargs)
        Path(result.storage_path, "schema.json").write_text("{}")
        return result

    backup_manager.create_backup = damaged
    await asyncio.sleep(1.1)  # the name holds the second
    assert await migrate(collection) is False
    assert "schema.json" in capsys.readouterr().out
    assert lite.client.has_collection(collection)
    with pytest.raises(BackupCorruptedError) as failure:
        await backup_manager.restore_backup(
            (await backup_manager.list_backups(collection))[0].backup_id, collection, RestoreParams(drop_existing=True)
        )
    assert failure.value.failed_files == ["schema.json"]
