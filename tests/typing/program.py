"""A user's program that touches the whole interface, for the type checker: it is never run.

Each line with an ignore is a mistake that the checker has to find: unused ignores are errors.
"""

from __future__ import annotations

import asyncio
import datetime

from milvault import (
    AutoIdPolicy,
    BackupCorruptedError,
    BackupError,
    BackupInProgressError,
    BackupManager,
    BackupMetadata,
    BackupParams,
    BackupProgress,
    BackupRecoveryConfig,
    BackupRecoveryError,
    BackupResult,
    BackupSet,
    BackupState,
    BackupStorageType,
    BackupType,
    ChecksumAlgorithm,
    CollectionManager,
    ConnectionManager,
    InsufficientStorageError,
    MilvusStorage,
    PartitionNotFoundError,
    ProgressStream,
    RestoreParams,
    RestoreProof,
    RestoreResult,
    SchemaIncompatibleError,
    VerificationParams,
    VerificationResult,
    VerificationType,
)


async def back_up(manager: BackupManager) -> str | None:
    params = BackupParams(
        backup_type=BackupType.PARTITION,
        partition_names=["a", "b"],
        compression_enabled=True,
        compression_level=9,
        chunk_size_mb=64,
        include_indexes=False,
        backup_name="mine",
        tags=["nightly"],
        storage_type=BackupStorageType.LOCAL_FILE,
        duplicates="collapse",
        prove_stable=True,
        bandwidth_limit_mib=12.5,
    )
    result: BackupResult = await manager.create_backup("articles", params, progress=True, timeout=60)
    result.raise_for_error()
    size: float = result.size_mb
    state: BackupState = result.state
    metadata: BackupMetadata | None = result.metadata
    if metadata is not None:
        made: datetime.datetime = metadata.created_at
        ratio: float | None = metadata.compression_ratio
        print(made, ratio, metadata.is_completed, metadata.tags)
    print(size, state.value, result.to_dict()["row_count"])
    return result.backup_id


async def look(manager: BackupManager, backup_id: str) -> None:
    since = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
    listed: list[BackupMetadata] = await manager.list_backups("articles", created_after=since, tags=["x"], limit=3)
    names: list[str] = [backup.backup_name for backup in listed]
    found: VerificationResult = await manager.verify_backup(
        backup_id, "articles", VerificationParams(verification_type=VerificationType.CHECKSUM, sample_size=5.0)
    )
    failed: list[str] = found.files_failed
    gone: bool = await manager.delete_backup(backup_id, "articles")
    print(names, failed, gone, found.has_errors)


async def bring_back(manager: BackupManager, backup_id: str) -> int:
    def tell(progress: BackupProgress) -> None:
        print(progress.percentage, progress.formatted_eta, progress.current_speed_mbps)

    params = RestoreParams(
        target_collection_name="copy",
        drop_existing=True,
        verify_after=RestoreProof.COUNT,
        auto_id=AutoIdPolicy.PRESERVE,
        batch_rows=1000,
    )
    result: RestoreResult = await manager.restore_backup(backup_id, "articles", params, progress=tell)
    return result.rows_restored


async def several(manager: BackupManager) -> int:
    backups: BackupSet = await manager.create_backups(["articles", "shop.*"], name="nightly")
    backups.raise_for_error()
    failed: list[str] = [each.collection_name for each in backups.failed]
    return backups.row_count + len(failed)


async def watch(manager: BackupManager) -> None:
    stream = ProgressStream()
    task = asyncio.create_task(manager.create_backup("articles", progress=stream))
    async for progress in stream:
        left: float | None = progress.estimated_remaining_time_seconds
        print(left)
    print((await task).success)


async def handle(manager: BackupManager) -> None:
    try:
        await manager.create_backup("articles")
    except BackupError as error:
        print(error.collection_name, error.storage_path)
    except InsufficientStorageError as error:
        print(f"{error.required_gb:.2f} {error.available_gb:.2f}")
    except PartitionNotFoundError as error:
        print(error.partition_name, ", ".join(error.available_partitions))
    except BackupInProgressError as error:
        print(error.progress_percentage)
    except BackupCorruptedError as error:
        print(error.failed_files, error.expected_checksum)
    except SchemaIncompatibleError as error:
        print(error.incompatibilities)
    except BackupRecoveryError as error:
        print(error.context, error.to_dict())


async def main() -> None:
    connection = ConnectionManager("http://localhost:19530", token="root:Milvus", db_name="default")
    config = BackupRecoveryConfig(
        local_backup_root_path="./milvus_backups",
        checksum_algorithm=ChecksumAlgorithm.BLAKE2B,
        milvus_storage=MilvusStorage(url="s3://bucket/files"),
    )
    config = BackupRecoveryConfig.load("milvault.yaml", max_retries=1)
    manager = BackupManager(
        connection_manager=connection, collection_manager=CollectionManager(connection), config=config
    )
    async with manager, BackupManager.connect(None, "s3://bucket/prefix") as keeper:
        backup_id = await back_up(manager)
        assert backup_id is not None
        await look(keeper, backup_id)
        print(await bring_back(manager, backup_id) + 1)


async def mistakes(manager: BackupManager) -> None:
    BackupParams(compresion_enabled=True)  # type: ignore[call-arg]
    BackupParams(compression_level="high")  # type: ignore[arg-type]
    BackupParams(duplicates="keep")  # type: ignore[arg-type]
    await manager.create_backup(7)  # type: ignore[arg-type]
    await manager.create_backup("articles", RestoreParams())  # type: ignore[arg-type]
    wrong: str = (await manager.create_backup("articles")).row_count  # type: ignore[assignment]
    print(wrong, (await manager.get_backup("x")).no_such_attribute)  # type: ignore[attr-defined]
    async for progress in ProgressStream():
        print(progress.percent)  # type: ignore[attr-defined]
