"""Bad input and bad luck: a typed error that says what and what next, nothing touched, nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from milvault import (
    BackupCorruptedError,
    BackupError,
    BackupManager,
    BackupParams,
    BackupRecoveryConfig,
    BackupRecoveryError,
    BackupStorageError,
    BackupType,
    ConnectionManager,
    PartitionNotFoundError,
    RestoreError,
    RestoreParams,
    RestoreValidationError,
)
from tests.backup_files import data_files, leftovers
from tests.faults.processes import run_on_a_disk_of
from tests.recipes import count, create, create_large, expected, plain, read_all
from tests.servers.milvus_235 import QUICK, Milvus235
from tests.servers.process import free_ports

pytestmark = pytest.mark.faults


@pytest.fixture
async def backup(lite, connect, name):
    """A backup of 300 rows, and the collection it was made of, which has changed since."""
    recipe = plain(300)
    create(lite.client, name, recipe)
    async with connect(lite, default_chunk_size_mb=1) as manager:
        made = await manager.create_backup(name)
    assert made.success, made.error_message
    lite.client.delete(name, filter="id >= 42")
    return made


async def refused_restore(lite, connect, name, backup, **params) -> BackupRecoveryError:
    """The error of a restore over the existing collection; asserts that the collection is as it was."""
    before = read_all(lite.client, name)
    async with connect(lite) as manager:
        options = RestoreParams(drop_existing=True, **params)
        with pytest.raises(BackupRecoveryError) as failure:
            (await manager.restore_backup(backup.backup_id, name, options)).raise_for_error()
    assert read_all(lite.client, name) == before
    assert lite.staging() == []
    return failure.value


# The server


async def test_no_server_is_an_error_that_names_the_address(connect, name, root):
    uri = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with connect(uri, max_retries=1) as manager:
        result = await manager.create_backup(name)
    assert not result.success
    assert isinstance(result.error, BackupError)
    assert uri in result.error_message
    assert leftovers(root) == []


async def test_no_server_for_a_restore(lite, connect, name, backup):
    uri = f"http://127.0.0.1:{free_ports(1)[0]}"
    async with connect(uri, max_retries=1) as manager:
        result = await manager.restore_backup(backup.backup_id, name)
    assert not result.success
    assert isinstance(result.error, RestoreError)
    assert uri in result.error_message


async def test_something_else_that_listens_there_is_an_error(s3_server, connect, name, root):
    async with connect(s3_server.endpoint, max_retries=0) as manager:
        result = await manager.create_backup(name)
    assert isinstance(result.error, BackupError)
    assert s3_server.endpoint in result.error_message
    assert leftovers(root) == []


@pytest.mark.server
async def test_a_wrong_token_is_an_error_that_keeps_it_secret(tmp_path, name):
    server = Milvus235(tmp_path / "locked", {**QUICK, "common.security.authorizationEnabled": "true"}).start()
    try:
        create(MilvusClient(server.uri, token="root:Milvus"), name, plain(10))
        config = BackupRecoveryConfig(local_backup_root_path=tmp_path / "backups", retry_delay_seconds=0.1)
        for token in ("root:not-the-password", "nobody:secret-of-nobody", None):
            async with BackupManager(ConnectionManager(server.uri, token=token), config=config) as manager:
                result = await manager.create_backup(name)
            assert not result.success
            assert isinstance(result.error, BackupError)
            assert any(word in result.error_message for word in ("token", "password", "credential", "permission"))
            told = repr(result) + json.dumps(result.error.to_dict())
            assert "not-the-password" not in told
            assert "secret-of-nobody" not in told
        async with BackupManager(ConnectionManager(server.uri, token="root:Milvus"), config=config) as manager:
            assert (await manager.create_backup(name)).row_count == 10
    finally:
        server.kill()
    assert b"root:Milvus" not in b"".join(file.read_bytes() for file in (tmp_path / "backups").rglob("*.json"))


async def test_a_collection_that_is_dropped_while_it_is_read(lite_tcp, connect, name, root):
    create_large(lite_tcp.uri, name, 5_000, 512)
    dropped = []

    def drop(progress) -> None:
        if progress.phase == "reading" and not dropped:
            dropped.append(True)
            lite_tcp.client.drop_collection(name)

    async with connect(lite_tcp) as manager:
        result = await manager.create_backup(name, progress=drop)
    assert dropped
    assert not result.success
    assert isinstance(result.error, BackupError)
    assert name in result.error_message
    assert leftovers(root) == []


@pytest.mark.server
async def test_a_collection_that_is_dropped_while_it_is_read_on_a_server(own_milvus_server, connect, name, root):
    # On a server of its own: dropping a collection that is being queried brings 2.3.5 down now and then.
    client = MilvusClient(own_milvus_server.uri)
    create_large(own_milvus_server.uri, name, 60_000, 128)
    dropped = []

    def drop(progress) -> None:
        if progress.phase == "reading" and progress.rows_processed and not dropped:
            dropped.append(True)
            client.drop_collection(name)

    async with connect(own_milvus_server.uri, max_retries=1) as manager:
        result = await manager.create_backup(name, progress=drop)
        assert dropped
        if result.success:  # the last page was on its way already
            assert result.row_count == 60_000
        else:
            assert isinstance(result.error, BackupError)
            assert leftovers(root) == []


async def test_a_partition_that_is_not_there_is_named_with_those_that_are(lite, connect, name, root):
    create(lite.client, name, plain(10))
    params = BackupParams(backup_type=BackupType.PARTITION, partition_names=["winter"])
    async with connect(lite) as manager:
        with pytest.raises(PartitionNotFoundError, match="winter") as failure:
            await manager.create_backup(name, params)
    assert failure.value.partition_name == "winter"
    assert failure.value.available_partitions == ["_default"]
    assert leftovers(root) == []


# The repository


async def test_a_root_that_is_a_file(lite, connect, name, tmp_path):
    create(lite.client, name, plain(10))
    root = tmp_path / "occupied"
    root.write_text("mine")
    async with connect(lite, root=root) as manager:
        with pytest.raises(BackupStorageError, match="occupied") as failure:
            (await manager.create_backup(name)).raise_for_error()
    assert str(root) in str(failure.value.storage_path)
    assert root.read_text() == "mine"


async def test_a_root_on_a_read_only_disk(lite_tcp, name, tmp_path):
    create(lite_tcp.client, name, plain(10))
    job = {"uri": lite_tcp.uri, "disk": str(tmp_path / "disk"), "collection": name, "fill": False}
    outcome = run_on_a_disk_of(8, tmp_path / "disk", job, read_only=True)
    assert not outcome["success"]
    assert outcome["error"]["type"] == "BackupStorageError"
    assert str(tmp_path / "disk") in outcome["error"]["message"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the read-only disk stands for it")
async def test_a_root_without_permission(lite, connect, name, tmp_path):
    create(lite.client, name, plain(10))
    tmp_path.joinpath("locked").mkdir(mode=0o500)
    async with connect(lite, root=tmp_path / "locked" / "backups") as manager:
        with pytest.raises(BackupStorageError) as failure:
            (await manager.create_backup(name)).raise_for_error()
    assert failure.value.permissions_issue


async def test_a_disk_known_to_be_too_small_is_refused_before_anything_is_written(lite_tcp, name, tmp_path):
    create_large(lite_tcp.uri, name, 2_500, 1024)  # 10 MB
    job = {"uri": lite_tcp.uri, "disk": str(tmp_path / "disk"), "collection": name, "fill": False}
    outcome = run_on_a_disk_of(4, tmp_path / "disk", job)
    assert outcome["raised"]
    assert outcome["error"]["type"] == "InsufficientStorageError"
    assert outcome["error"]["required_bytes"] > 4 * 2**20
    assert 0 < outcome["error"]["available_bytes"] <= 4 * 2**20
    assert outcome["leftovers"] == []


async def test_a_disk_that_somebody_fills_meanwhile(lite_tcp, name, tmp_path):
    create_large(lite_tcp.uri, name, 5_000, 1024)  # 20 MB
    job = {"uri": lite_tcp.uri, "disk": str(tmp_path / "disk"), "collection": name, "fill": True}
    outcome = run_on_a_disk_of(64, tmp_path / "disk", job)
    assert outcome["filled"]
    assert not outcome["success"]
    assert outcome["error"]["type"] == "InsufficientStorageError"
    assert outcome["listed"] == 0
    assert outcome["leftovers"] == []
    assert outcome["again"] == "success"
    assert outcome["leftovers_after_again"] == []


# The backup's files


def rewrite_manifest(folder: Path, change: Callable[[dict], None]) -> None:
    """Changes the manifest and makes its own checksum right again, as somebody who knows the format would."""
    path = folder / "metadata.json"
    manifest = json.loads(path.read_text())
    manifest.pop("self")
    change(manifest)
    before = json.dumps(manifest, indent=2, ensure_ascii=False).removesuffix("\n}") + ',\n  "self": "sha256:'
    after = '"\n}\n'
    path.write_text(before + hashlib.sha256((before + after).encode()).hexdigest() + after)


async def test_a_rewritten_manifest_is_accepted_where_nothing_is_wrong_with_it(lite, connect, name, backup):
    rewrite_manifest(Path(backup.storage_path), lambda manifest: manifest["tags"].append("edited"))
    async with connect(lite) as manager:
        assert (await manager.get_backup(backup.backup_id, name)).tags == ["edited"]
        assert (await manager.verify_backup(backup.backup_id, name)).success


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
async def test_a_truncated_manifest(lite, connect, name, backup, kept):
    path = Path(backup.storage_path, "metadata.json")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    error = await refused_restore(lite, connect, name, backup)
    assert isinstance(error, BackupCorruptedError)
    assert "metadata.json" in str(error)
    async with connect(None) as manager:
        await manager.list_backups()  # one bad backup does not hide the others


async def test_a_manifest_of_a_newer_version(lite, connect, name, backup):
    rewrite_manifest(Path(backup.storage_path), lambda manifest: manifest.update(metadata_version=999))
    error = await refused_restore(lite, connect, name, backup)
    assert "999" in str(error)
    assert "newer" in str(error).lower()


@pytest.mark.parametrize(
    "path", ["../../outside.parquet", "/etc/passwd", "data/../../outside.parquet", "data\\..\\outside", "data/nul\x00"]
)
@pytest.mark.parametrize("table", ["checksums.json", "chunks.json"])
async def test_a_manifest_that_points_outside_the_backup(lite, connect, name, backup, path, table):
    folder = Path(backup.storage_path)
    (file,) = data_files(folder)
    shutil.copy(file, folder.parent.parent / "outside.parquet")
    sums = json.loads((folder / "checksums.json").read_text())
    if table == "checksums.json":
        sums["files"][path] = sums["files"].pop(f"data/{file.name}")
    else:
        chunks = json.loads((folder / "chunks.json").read_text())
        chunks["chunks"][0]["file"] = path
        content = json.dumps(chunks).encode()
        (folder / "chunks.json").write_bytes(content)
        sums["files"]["chunks.json"] = {"bytes": len(content), "checksum": hashlib.sha256(content).hexdigest()}
    content = json.dumps(sums).encode()
    (folder / "checksums.json").write_bytes(content)
    rewrite_manifest(folder, lambda manifest: manifest.update(checksum=hashlib.sha256(content).hexdigest()))
    for verify in (True, False):
        error = await refused_restore(lite, connect, name, backup, verify_before_restore=verify)
        assert isinstance(error, BackupCorruptedError)
        assert table in str(error)


async def test_a_link_that_leads_out_of_the_backup(lite, connect, name, backup, tmp_path):
    (file,) = data_files(backup.storage_path)
    elsewhere = tmp_path / "elsewhere.parquet"
    shutil.move(file, elsewhere)
    file.symlink_to(elsewhere)
    for verify in (True, False):
        error = await refused_restore(lite, connect, name, backup, verify_before_restore=verify)
        assert isinstance(error, BackupCorruptedError | BackupStorageError)
        assert file.name in str(error)


async def test_a_chunk_with_a_flipped_byte(lite, connect, name, backup):
    (file,) = data_files(backup.storage_path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(content)
    async with connect(None) as manager:
        verification = await manager.verify_backup(backup.backup_id, name)
    assert not verification.success
    assert verification.checksum_valid is False
    assert verification.files_failed == [f"data/{file.name}"]
    assert file.name in verification.errors[0]
    error = await refused_restore(lite, connect, name, backup)
    assert isinstance(error, BackupCorruptedError)
    assert error.failed_files == [f"data/{file.name}"]
    assert error.checksum_algorithm == "SHA256"
    assert hashlib.sha256(content).hexdigest() == error.actual_checksum


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("file", ["data", "schema.json", "chunks.json", "checksums.json", "indexes/vector.json"])
async def test_a_missing_file(lite, connect, name, backup, file, verify):
    path = data_files(backup.storage_path)[0] if file == "data" else Path(backup.storage_path, file)
    path.unlink()
    async with connect(None) as manager:
        verification = await manager.verify_backup(backup.backup_id, name)
    assert not verification.success
    assert any(failed.endswith(path.name) for failed in verification.files_failed)
    error = await refused_restore(lite, connect, name, backup, verify_before_restore=verify)
    assert isinstance(error, BackupCorruptedError)
    assert path.name in str(error)


async def test_an_extra_file(lite, connect, name, backup):
    (file,) = data_files(backup.storage_path)
    shutil.copy(file, file.with_name("_default-99999.parquet"))
    async with connect(None) as manager:
        verification = await manager.verify_backup(backup.backup_id, name)
    assert not verification.success
    assert verification.files_failed == ["data/_default-99999.parquet"]
    assert isinstance(await refused_restore(lite, connect, name, backup), BackupCorruptedError)


async def test_all_damage_is_found_where_asked_for(lite, connect, name, backup):
    from milvault import VerificationParams

    Path(backup.storage_path, "schema.json").unlink()
    data_files(backup.storage_path)[0].write_bytes(b"")
    async with connect(None) as manager:
        verification = await manager.verify_backup(backup.backup_id, name, VerificationParams(fail_fast=False))
    assert len(verification.files_failed) == 2
    assert len(verification.errors) >= 2


# The target


async def test_an_existing_collection_is_not_replaced_without_leave(lite, connect, name, backup, root):
    before = read_all(lite.client, name)
    async with connect(lite) as manager:
        with pytest.raises(RestoreValidationError, match="drop_existing") as failure:
            await manager.restore_backup(backup.backup_id, name)
    assert name in str(failure.value)
    assert failure.value.target_collection_name == name
    assert failure.value.validation_errors
    assert read_all(lite.client, name) == before
    assert lite.staging() == []
    assert leftovers(root) == []


async def test_an_alias_is_not_taken_for_a_target(lite, connect, name, backup):
    lite.client.create_alias(name, f"{name}_alias")
    async with connect(lite) as manager:
        params = RestoreParams(target_collection_name=f"{name}_alias", drop_existing=True)
        with pytest.raises(RestoreValidationError, match="alias"):
            await manager.restore_backup(backup.backup_id, name, params)
    assert count(lite.client, name) == 42


async def test_the_old_collection_stays_until_the_new_one_is_proven(lite, connect, name, backup):
    # The checksums were made right again after the damage, so that only the proof by digest can find it.
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(backup.storage_path)
    (file,) = data_files(folder)
    table = pq.read_table(file)
    ids = table.column("id").to_pylist()
    ids[17] = 1_000_000
    pq.write_table(table.set_column(0, table.schema.field("id"), pa.array(ids)), file)
    content = file.read_bytes()
    sums = json.loads((folder / "checksums.json").read_text())
    sums["files"][f"data/{file.name}"] = {"bytes": len(content), "checksum": hashlib.sha256(content).hexdigest()}
    if "chunks.json" in sums["files"]:
        chunks = json.loads((folder / "chunks.json").read_text())
        chunks["chunks"][0]["file_bytes"] = len(content)
        text = json.dumps(chunks).encode()
        (folder / "chunks.json").write_bytes(text)
        sums["files"]["chunks.json"] = {"bytes": len(text), "checksum": hashlib.sha256(text).hexdigest()}
    text = json.dumps(sums).encode()
    (folder / "checksums.json").write_bytes(text)
    rewrite_manifest(folder, lambda manifest: manifest.update(checksum=hashlib.sha256(text).hexdigest()))
    async with connect(None) as manager:
        assert (await manager.verify_backup(backup.backup_id, name)).success
    error = await refused_restore(lite, connect, name, backup)
    assert isinstance(error, RestoreValidationError | RestoreError | BackupCorruptedError)


async def test_a_target_that_cannot_hold_the_schema_is_refused_before_a_row_is_written(server, lite, connect, name):
    from pymilvus import DataType

    from milvault import SchemaIncompatibleError

    client = lite.client
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("maybe", DataType.INT64, nullable=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    schema.add_field("second", DataType.FLOAT_VECTOR, dim=4)
    client.create_collection(name, schema=schema)
    vectors = {"vector": [0.0] * 4, "second": [1.0] * 4}
    client.insert(name, [{"id": 1, "maybe": None, **vectors}, {"id": 2, "maybe": 5, **vectors}])
    async with connect(lite) as manager:
        made = await manager.create_backup(name)
        assert made.success, made.error_message
    async with connect(server) as manager:
        with pytest.raises(SchemaIncompatibleError, match="maybe") as failure:
            await manager.restore_backup(made.backup_id, name)
    reasons = failure.value.incompatibilities
    assert len(reasons) == 2, reasons
    assert all(any(word in reason for reason in reasons) for word in ("maybe", "second"))
    assert all(reason in str(failure.value) for reason in reasons)
    assert [field["name"] for field in failure.value.backup_schema["fields"]] == ["id", "maybe", "vector", "second"]
    assert (failure.value.collection_name, failure.value.backup_id) == (name, made.backup_id)
    assert not server.client.has_collection(name)


async def test_a_sound_backup_still_restores_after_all_that(lite, connect, name, backup):
    async with connect(lite) as manager:
        params = RestoreParams(drop_existing=True, load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert read_all(lite.client, name) == expected(plain(300))
