"""Each error class of the contract, provoked for real, with every attribute that it promises."""

from __future__ import annotations

import hashlib
import json
import pickle

import grpc
import pytest

from milvault import (
    BackupAlreadyExistsError,
    BackupCorruptedError,
    BackupError,
    BackupNotFoundError,
    BackupParams,
    BackupRecoveryError,
    BackupStorageError,
    BackupType,
    PartitionNotFoundError,
    RestoreError,
    RestoreParams,
    RestoreValidationError,
)
from tests.backup_files import data_files, json_file
from tests.faults.processes import run_on_a_disk_of
from tests.recipes import create, create_large, partitioned
from tests.servers.fault_proxy import Proxy

pytestmark = pytest.mark.faults


@pytest.fixture
def collection(lite_tcp, name):
    create(lite_tcp.client, name, partitioned(90))
    return name


async def raised(call) -> BackupRecoveryError:
    """The error that a call raises or returns; it pickles with all that it knows."""
    with pytest.raises(BackupRecoveryError) as failure:
        (await call).raise_for_error()
    error, again = failure.value, pickle.loads(pickle.dumps(failure.value))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert again.to_dict() == error.to_dict()
    assert json.dumps(error.to_dict())
    return error


async def test_backup_error_tells_collection_place_and_storage(lite_tcp, connect, collection, root):
    proxy = Proxy(lite_tcp.uri).start()
    try:
        proxy.delays["rows"] = 0.5  # time for the failure to be set when reading has begun
        async with connect(proxy.uri, max_retries=0) as manager:

            def fail(progress):
                if progress.phase == "reading":
                    proxy.fail("Query", grpc.StatusCode.INTERNAL, 1000)

            error = await raised(manager.create_backup(collection, progress=fail))
    finally:
        proxy.stop()
    assert type(error) is BackupError
    assert error.collection_name == collection
    assert error.storage_type == "LOCAL_FILE"
    assert error.storage_path.startswith(f"{root}/{collection}/b20")
    assert proxy.uri in str(error)


async def test_restore_error_tells_backup_and_target(lite_tcp, connect, collection):
    proxy = Proxy(lite_tcp.uri).start()
    try:
        async with connect(proxy.uri, max_retries=0) as manager:
            backup = await manager.create_backup(collection)
            proxy.fail("Insert", grpc.StatusCode.INVALID_ARGUMENT, 1000)
            params = RestoreParams(target_collection_name=f"{collection}_copy")
            error = await raised(manager.restore_backup(backup.backup_id, collection, params))
    finally:
        proxy.stop()
    assert type(error) is RestoreError
    assert (error.target_collection_name, error.collection_name) == (f"{collection}_copy", collection)
    assert error.backup_id == backup.backup_id
    assert lite_tcp.staging() == []


async def test_not_found_and_already_exists_tell_name_and_place(lite_tcp, connect, collection, root):
    async with connect(lite_tcp) as manager:
        made = await manager.create_backup(collection, BackupParams(backup_name="mine"))
        error = await raised(manager.get_backup("yours", collection))
        assert type(error) is BackupNotFoundError
        assert error.backup_name == "yours"
        assert error.storage_path.startswith(str(root))
        assert "mine" in str(error)
        error = await raised(manager.create_backup(collection, BackupParams(backup_name="mine")))
        assert type(error) is BackupAlreadyExistsError
        assert (error.backup_name, error.existing_backup_id) == ("mine", made.backup_id)
        assert (error.collection_name, error.storage_path) == (collection, made.storage_path)


async def test_corrupted_tells_files_and_checksums(lite_tcp, connect, collection):
    async with connect(lite_tcp) as manager:
        made = await manager.create_backup(collection)
        file = data_files(made.storage_path)[0]
        name = f"data/{file.name}"
        promised = json_file(made.storage_path, "checksums.json")["files"][name]["checksum"]
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
        error = await raised(manager.restore_backup(made.backup_id, collection, RestoreParams(drop_existing=True)))
    assert type(error) is BackupCorruptedError
    assert error.failed_files == [name]
    assert error.expected_checksum == promised
    assert error.actual_checksum == hashlib.sha256(content).hexdigest()
    assert error.checksum_algorithm == "SHA256"
    assert (error.backup_id, error.collection_name) == (made.backup_id, collection)
    assert name in str(error)


async def test_partition_not_found_tells_those_there_are(lite_tcp, connect, collection):
    there = ["_default", "autumn", "spring"]
    async with connect(lite_tcp) as manager:
        params = BackupParams(backup_type=BackupType.PARTITION, partition_names=["spring", "winter"])
        error = await raised(manager.create_backup(collection, params))
        assert type(error) is PartitionNotFoundError
        assert (error.partition_name, sorted(error.available_partitions)) == ("winter", there)
        assert error.collection_name == collection
        made = await manager.create_backup(collection)
        choose = RestoreParams(target_collection_name=f"{collection}_copy", partition_names=["winter"])
        error = await raised(manager.restore_backup(made.backup_id, collection, choose))
        assert type(error) is PartitionNotFoundError
        assert (error.partition_name, sorted(error.available_partitions)) == ("winter", there)
        assert error.backup_id == made.backup_id


async def test_restore_validation_tells_each_reason(lite_tcp, connect, collection):
    async with connect(lite_tcp) as manager:
        made = await manager.create_backup(collection)
        error = await raised(manager.restore_backup(made.backup_id, collection))
    assert type(error) is RestoreValidationError
    assert error.target_collection_name == collection
    assert len(error.validation_errors) == 1
    assert error.validation_errors[0] in str(error)


async def test_storage_error_tells_place_and_the_systems_code(lite_tcp, connect, collection, tmp_path):
    (tmp_path / "file").write_text("mine")
    async with connect(lite_tcp, root=tmp_path / "file") as manager:
        error = await raised(manager.create_backup(collection))
    assert type(error) is BackupStorageError
    assert error.storage_path == str(tmp_path / "file")
    assert error.error_code == "ENOTDIR"
    assert error.permissions_issue is False


def test_storage_error_tells_a_missing_right(lite_tcp, collection, tmp_path):
    job = {"uri": lite_tcp.uri, "disk": str(tmp_path / "disk"), "collection": collection, "fill": False}
    error = run_on_a_disk_of(8, tmp_path / "disk", job, read_only=True)["error"]
    assert error["type"] == "BackupStorageError"
    assert error["permissions_issue"] is True
    assert error["error_code"] in ("EROFS", "EACCES")
    assert error["storage_path"].startswith(str(tmp_path / "disk"))


def test_insufficient_storage_tells_what_is_needed_and_free_in_gb(lite_tcp, name, tmp_path):
    create_large(lite_tcp.uri, name, 2_500, 1024)  # 10 MB
    job = {"uri": lite_tcp.uri, "disk": str(tmp_path / "disk"), "collection": name, "fill": False}
    error = run_on_a_disk_of(4, tmp_path / "disk", job)["error"]
    assert error["type"] == "InsufficientStorageError"
    assert error["required_gb"] == error["required_bytes"] / 2**30 > error["available_gb"]
    assert error["available_gb"] == error["available_bytes"] / 2**30 > 0
    assert error["storage_path"] == str(tmp_path / "disk" / "backups")
    assert f"{error['required_gb']:.2f} GB" in error["message"]
    assert f"{error['available_gb']:.2f} GB" in error["message"]
    assert name in error["message"]
