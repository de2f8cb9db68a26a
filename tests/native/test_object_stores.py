"""Native backups of a server whose files are in an object store, and to one: in every combination the same bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pymilvus import DataType, FieldSchema

from milvault import BackupManager, BackupParams, BackupRecoveryConfig, BackupStorageType
from tests.conftest import SOAK, Milvus, client_of, files_under
from tests.native.binlogs import alive
from tests.recipes import Recipe, create, plain
from tests.servers.milvus_235 import QUICK, Milvus235
from tests.servers.s3 import KEY, REGION, SECRET, S3Server

pytestmark = [pytest.mark.server]

BUCKET, ROOT_PATH = "milvus-own", "some/files"


@pytest.fixture(scope="module")
def on_s3(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Milvus235]:
    """A Milvus 2.3.5 that keeps its files in a bucket, and deletes what compaction leaves within seconds."""
    s3_server.client().create_bucket(Bucket=BUCKET)
    base = tmp_path_factory.mktemp("milvus-on-s3")
    settings = {
        **QUICK,
        "common.storageType": "minio",
        "minio.address": "127.0.0.1",
        "minio.port": str(s3_server.port),
        "minio.accessKeyID": KEY,
        "minio.secretAccessKey": SECRET,
        "minio.bucketName": BUCKET,
        "minio.rootPath": ROOT_PATH,
        "minio.region": REGION,
        "minio.useSSL": "false",
        "dataCoord.gc.interval": "1",
        "dataCoord.gc.dropTolerance": "1",
    }
    server = Milvus235(base, settings).start()
    yield server
    server.stop()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def s3_milvus(on_s3: Milvus235) -> Iterator[Milvus]:
    client = client_of(on_s3.uri)
    yield Milvus(on_s3.uri, "server", client)
    for collection in client.list_collections():
        client.drop_collection(collection)
    client.close()


def manager_of(milvus: Milvus, storage: Any, root: str, **settings: Any) -> BackupManager:
    config = BackupRecoveryConfig(
        milvus_storage=storage,
        local_backup_root_path=root,
        default_storage_type=BackupStorageType.MILVUS_NATIVE,
        retry_delay_seconds=0.2,
        **settings,
    )
    return BackupManager.connect(milvus.uri, config=config)


def objects(s3_server: S3Server, bucket: str, prefix: str) -> dict[str, bytes]:
    client = s3_server.client()
    found = client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/").get("Contents", [])
    read = {entry["Key"]: client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read() for entry in found}
    return {key.removeprefix(f"{prefix}/"): content for key, content in read.items()}


def sources(files: dict[str, bytes]) -> dict[str, bytes]:
    """A backup's binlogs by their paths in Milvus's own storage."""
    found = {}
    for path, content in files.items():
        if path.startswith("binlogs/"):
            _, kind, collection, partition, group, *rest = path.split("/")
            assert rest[0] == group
            found["/".join([kind, collection, partition, *rest])] = content
    return found


@pytest.mark.parametrize("target", ["disk", "same bucket", "other bucket"])
async def test_what_is_copied_from_an_object_store_is_what_the_server_wrote(
    s3_milvus, s3_server, bucket, name, root, target
):
    create(s3_milvus.client, name, plain(3000))
    s3_milvus.client.delete(name, ids=list(range(100)))
    place = {"disk": str(root), "same bucket": f"s3://{BUCKET}/backups", "other bucket": f"s3://{bucket}/b"}[target]
    storage = {"url": f"s3://{BUCKET}/{ROOT_PATH}", "options": s3_server.options}
    options = {} if target == "disk" else {"storage_options": s3_server.options}
    async with manager_of(s3_milvus, storage, place, **options) as manager:
        assert (await manager.check(name)).success
        made = await manager.create_backup(name)
    made.raise_for_error()
    assert made.row_count == 2900
    own_bucket, _, prefix = made.storage_path.removeprefix("s3://").partition("/")
    files = files_under(Path(made.storage_path)) if target == "disk" else objects(s3_server, own_bucket, prefix)
    sums = json.loads(files["checksums.json"])["files"]
    for path, entry in sums.items():
        assert hashlib.sha256(files[path]).hexdigest() == entry["checksum"], path
    number = s3_milvus.client.describe_collection(name)["collection_id"]
    theirs = {
        f"{kind}/{path}": content
        for kind in ("insert_log", "delta_log")
        for path, content in objects(s3_server, BUCKET, f"{ROOT_PATH}/{kind}").items()
        if path.startswith(f"{number}/")
    }
    copied = sources(files)
    assert copied.items() <= theirs.items()
    live = {str(info.segment_id) for info in s3_milvus.client.list_persistent_segments(name)}
    assert {path.split("/")[3] for path in copied} == live
    secret = SECRET.encode()
    assert not any(secret in content for content in files.values())


async def test_a_disk_is_backed_up_to_an_object_store(server, milvus_server, s3_server, bucket, name):
    create(server.client, name, plain(500))
    async with manager_of(server, str(milvus_server.data), f"s3://{bucket}/b") as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        assert made.row_count == 500
        copied = sources(objects(s3_server, bucket, made.storage_path.removeprefix(f"s3://{bucket}/")))
        assert len(copied) >= 4
        for path, content in copied.items():
            assert (milvus_server.data / path).read_bytes() == content
        assert await manager.delete_backup(made.backup_id)
    assert objects(s3_server, bucket, "b") == {}


async def test_the_servers_own_configuration_leads_into_its_bucket(s3_milvus, on_s3, name, root):
    create(s3_milvus.client, name, plain(40))
    [file] = on_s3.base.rglob("milvus.yaml")
    async with manager_of(s3_milvus, str(file), str(root)) as manager:
        made = await manager.create_backup(name)
    made.raise_for_error()
    assert made.row_count == 40


async def test_a_bucket_or_root_path_that_is_wrong_is_named(s3_milvus, s3_server, bucket, name, root):
    create(s3_milvus.client, name, plain(40))
    s3_milvus.client.flush(name)
    right = f"s3://{BUCKET}/{ROOT_PATH}"
    for url, why in (
        (f"s3://{BUCKET}/some", f"are in {right}: the root path is wrong"),
        (f"s3://{BUCKET}/some/other", f"are in {right}: the root path is wrong"),
        (f"s3://{bucket}/{ROOT_PATH}", "there is no insert_log in it"),
        ("s3://no-such-bucket-here/files", "name of the bucket"),
    ):
        storage = {"url": url, "options": s3_server.options}
        async with manager_of(s3_milvus, storage, str(root)) as manager:
            found = await manager.check(name)
        assert not found.success
        [storage_check] = [check for check in found.checks if check.name == "milvus_storage"]
        assert storage_check.success is False
        assert why in storage_check.message
        assert SECRET not in storage_check.message


@pytest.mark.skipif(not SOAK, reason="waits for the server's own compaction and clean-up; make soak runs it")
async def test_segments_that_compaction_replaced_while_they_were_copied_mean_another_moment(
    s3_milvus, s3_server, name, root
):
    base, more = plain(2000), [f"number_{number}" for number in range(24)]  # more files than are on their way at once
    rows = [{**row, **dict.fromkeys(more, row["id"] * 7919 % (2**40 + 1))} for row in base.rows]
    create(s3_milvus.client, name, Recipe([*base.fields, *(FieldSchema(f, DataType.INT64) for f in more)], rows))
    s3_milvus.client.flush(name)
    s3_milvus.client.delete(name, ids=list(range(1000)))
    s3_milvus.client.flush(name)
    before = {info.segment_id for info in s3_milvus.client.list_persistent_segments(name)}
    phases: list[str] = []

    compacting: list[asyncio.Task[None]] = []

    def watch(progress: Any) -> None:
        if phases[-1:] != [progress.phase]:
            phases.append(progress.phase)
        if progress.phase == "writing" and not compacting:
            compacting.append(asyncio.create_task(asyncio.to_thread(compacted, before)))

    def compacted(old: set[int]) -> None:
        s3_milvus.client.compact(name)
        client = s3_server.client()
        for _ in range(300):
            time.sleep(0.1)
            live = {info.segment_id for info in s3_milvus.client.list_persistent_segments(name)}
            keys = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{ROOT_PATH}/insert_log/").get("Contents", [])
            if not old & live and not any(str(segment) in entry["Key"] for entry in keys for segment in old):
                return
        raise AssertionError("the server compacted nothing, or keeps the files")

    storage = {"url": f"s3://{BUCKET}/{ROOT_PATH}", "options": s3_server.options}
    async with manager_of(s3_milvus, storage, str(root), progress_poll_interval=0.01) as manager:
        made = await manager.create_backup(name, BackupParams(bandwidth_limit_mib=0.01), progress=watch)
    await compacting[0]
    made.raise_for_error()
    assert ("writing", "flushing") in pairwise(phases), phases
    assert made.row_count == 1000
    assert alive(made.storage_path, 100, made.metadata.snapshot["timestamp"]) == list(range(1000, 2000))
