"""A repository on S3: the same as on a disk, seen with boto3 from outside."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from milvault import (
    BackupCorruptedError,
    BackupManager,
    BackupParams,
    BackupStorageError,
    RestoreParams,
    VerificationParams,
)
from tests.manifests import manifest, sealed
from tests.recipes import create, create_large, expected, partitioned, plain, read_all

pytestmark = pytest.mark.s3


def objects(s3_server, bucket: str) -> dict[str, bytes]:
    client = s3_server.client()
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {entry["Key"]: client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read() for entry in listed}


@pytest.fixture
def url(bucket) -> str:
    return f"s3://{bucket}/some/prefix"


async def test_a_backup_is_made_listed_verified_restored_and_deleted(lite, connect, name, url, s3_server, bucket):
    recipe = partitioned()
    create(lite.client, name, recipe)
    async with connect(lite, root=url) as manager:
        backup = await manager.create_backup(name, BackupParams(backup_name="mine"))
        assert backup.success, backup.error_message
        assert backup.storage_path.startswith(url)
        keys = set(objects(s3_server, bucket))
        folder = f"some/prefix/{name}/{backup.backup_id}"
        assert {f"{folder}/{file}" for file in ("metadata.json", "schema.json", "checksums.json")} <= keys
        assert not [key for key in keys if ".lock" in key]

        assert [found.backup_id for found in await manager.list_backups(name)] == [backup.backup_id]
        assert (await manager.get_backup("mine", name)).row_count == 300
        assert (await manager.verify_backup("mine", name)).success
        lite.client.drop_collection(name)
        restored = await manager.restore_backup("mine", name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
        assert read_all(lite.client, name) == expected(recipe)
        assert await manager.delete_backup("mine", name)
        assert await manager.list_backups() == []
    assert objects(s3_server, bucket) == {}


async def test_options_can_be_given_instead_of_the_environment(
    lite, connect, name, url, s3_server, bucket, monkeypatch
):
    for variable in s3_server.environment:
        monkeypatch.delenv(variable)
    create(lite.client, name, plain(20))
    async with connect(lite, root=url, storage_options=s3_server.options) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
    assert all(
        s3_server.options["aws_secret_access_key"].encode() not in body for body in objects(s3_server, bucket).values()
    )


async def test_large_files_go_up_in_parts(lite_tcp, connect, name, url, s3_server, bucket):
    create_large(lite_tcp.uri, name, 5_000, 1024)  # 20 MB, in one file
    async with connect(lite_tcp, root=url) as manager:
        backup = await manager.create_backup(name, BackupParams(compression_enabled=False))
        assert backup.success, backup.error_message
        assert (await manager.verify_backup(backup.backup_id, name)).success
    sizes = {key: len(body) for key, body in objects(s3_server, bucket).items() if "/data/" in key}
    assert max(sizes.values()) > 5 * 2**20
    assert s3_server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


async def test_damage_on_s3_is_found_and_not_restored(lite, connect, name, url, s3_server, bucket):
    create(lite.client, name, plain(200))
    async with connect(lite, root=url) as manager:
        backup = await manager.create_backup(name)
        (key,) = [key for key in objects(s3_server, bucket) if "/data/" in key]
        body = bytearray(objects(s3_server, bucket)[key])
        body[len(body) // 3] ^= 4
        s3_server.client().put_object(Bucket=bucket, Key=key, Body=bytes(body))
        verification = await manager.verify_backup(backup.backup_id, name)
        assert not verification.success
        assert [f"data/{key.rsplit('/', 1)[1]}"] == verification.files_failed
        lite.client.drop_collection(name)
        with pytest.raises(BackupCorruptedError) as failure:
            await manager.restore_backup(backup.backup_id, name)
    assert failure.value.failed_files == verification.files_failed
    assert lite.client.list_collections() == []


async def test_a_sample_is_verified_by_ranges(lite, connect, name, url, s3_server, bucket):
    create_large(lite.address, name, 12 * 250, 1024)
    async with connect(lite, root=url, default_chunk_size_mb=1) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        quick = VerificationParams(verification_type="QUICK", sample_size=20, seed=1)
        before = s3_server.requests(bucket)
        result = await manager.verify_backup(backup.backup_id, params=quick)
        asked = s3_server.requests(bucket)[len(before) :]
        assert result.success, result.errors
        assert (result.details["row_groups"], result.details["row_groups_checked"]) == (12, 3)
        data = [line for line in asked if "GET" in line and "/data/" in line and "list-type" not in line]
        assert data
        assert all(line.endswith("206 -") for line in data), data  # ranges, never a whole object
        # A footer of each file, and of three of them the footer again and a row group.
        assert len(data) <= 12 + 3 * 2 + 6, data

        keys = sorted(key for key in objects(s3_server, bucket) if "/data/" in key)
        body = bytearray(objects(s3_server, bucket)[keys[4]])
        body[len(body) // 2] ^= 4
        s3_server.client().put_object(Bucket=bucket, Key=keys[4], Body=bytes(body))
        everything = quick.model_copy(update={"sample_size": 100.0})
        result = await manager.verify_backup(backup.backup_id, params=everything)
        assert result.files_failed == [f"data/{keys[4].rsplit('/', 1)[1]}"]


async def test_the_requests_to_list_a_collection_do_not_grow_with_other_collections(url, s3_server, bucket, connect):
    now = dt.datetime.now(dt.timezone.utc)

    def put(collection: str, number: int) -> None:
        made = manifest(now - dt.timedelta(days=number), number, collection)
        key = f"some/prefix/{collection}/{made['backup_id']}/metadata.json"
        s3_server.client().put_object(Bucket=bucket, Key=key, Body=sealed(made))

    async def requests() -> int:
        before = len(s3_server.requests(bucket))
        async with BackupManager.connect(None, url) as manager:
            assert len(await manager.list_backups("articles", database="default")) == 3
            plan = await manager.apply_retention_policy(
                "articles", dry_run=True, database="default", retention_count=1, retention_days=0, min_backups_to_keep=0
            )
        assert plan["backups_to_delete"] == 2
        return len(s3_server.requests(bucket)) - before

    for number in range(3):
        put("articles", number)
    alone = await requests()
    for number in range(60):
        put(f"other_{number}", number)
    assert await requests() == alone


async def test_a_policy_deletes_on_s3(lite, connect, name, url, s3_server, bucket):
    create(lite.client, name, plain(20))
    async with connect(lite, root=url) as manager:
        made = [await manager.create_backup(name, BackupParams(backup_name=f"{number}")) for number in range(3)]
        rules = {"retention_count": 1, "retention_days": 0, "min_backups_to_keep": 0}
        done = await manager.apply_retention_policy(name, **rules)
        left = [backup.backup_id for backup in await manager.list_backups(name)]
    assert len(left) == 1
    assert sorted([*done["deleted_backup_ids"], *left]) == sorted(backup.backup_id for backup in made)
    assert all(f"/{left[0]}/" in key for key in objects(s3_server, bucket))


async def test_a_missing_bucket_is_a_storage_error_that_names_it(lite, connect, name, url, s3_server, bucket):
    create(lite.client, name, plain(5))
    async with connect(lite, root=f"s3://{bucket}-missing/prefix", max_retries=0) as manager:
        with pytest.raises(BackupStorageError, match=f"{bucket}-missing"):
            (await manager.create_backup(name)).raise_for_error()


async def test_the_manifest_on_s3_is_written_last(lite, connect, name, url, s3_server, bucket):
    create(lite.client, name, plain(50))
    async with connect(lite, root=url) as manager:
        backup = await manager.create_backup(name)
    listed = s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]
    times = {entry["Key"].rsplit("/", 1)[1]: entry["LastModified"] for entry in listed}
    manifest = json.loads(objects(s3_server, bucket)[f"some/prefix/{name}/{backup.backup_id}/metadata.json"])
    assert manifest["state"] == "COMPLETED"
    unlisted = ("metadata.json", "verification.json")
    assert times["metadata.json"] >= max(time for file, time in times.items() if file not in unlisted)
