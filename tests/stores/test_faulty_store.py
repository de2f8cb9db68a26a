"""A store that misbehaves: what is asked of it ends right, or with an error that names the object and the way out."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator

import pytest

from milvault import (
    BackupCorruptedError,
    BackupManager,
    BackupNotFoundError,
    BackupParams,
    BackupRecoveryError,
    BackupStorageError,
    InsufficientStorageError,
    RestoreParams,
    VerificationParams,
)
from tests.conftest import SOAK
from tests.recipes import create, create_large, expected, partitioned, plain, read_all
from tests.servers.s3_proxy import PASSING, Fault, FaultyS3, Request, some_of

pytestmark = pytest.mark.s3

SEEDS = range(20) if SOAK else range(2)
QUICK = VerificationParams(verification_type="QUICK", sample_size=100.0)
KEEP_ONE = {"retention_count": 1, "retention_days": 0, "min_backups_to_keep": 0}


@pytest.fixture
def faulty(s3_server, bucket, monkeypatch) -> Iterator[FaultyS3]:
    """A proxy before the S3 server, which the environment names; silence of a second counts as a stall."""
    proxy = FaultyS3(s3_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT", proxy.endpoint)
    monkeypatch.setenv("AWS_READ_TIMEOUT", "1 second")
    yield proxy
    proxy.close()


@pytest.fixture
def url(bucket) -> str:
    return f"s3://{bucket}/some/prefix"


@pytest.fixture
def honest(s3_server, url, connect):
    """Managers that go past the proxy."""

    def make(milvus=None, root: str = url) -> BackupManager:
        if milvus is None:
            return BackupManager.connect(None, root, storage_options=s3_server.options)
        return connect(milvus, root=root, storage_options=s3_server.options)

    return make


async def is_whole(manager: BackupManager, name: str) -> list[str]:
    """The backups that are listed, each of them verified."""
    backups = await manager.list_backups(name)
    assert not backups.damaged
    for backup in backups:
        outcome = await manager.verify_backup(backup.backup_id, name)
        assert outcome.success, outcome.errors
    return [backup.backup_id for backup in backups]


def about_the_store(error: BackupRecoveryError | None) -> bool:
    """Whether it is an error that says which object, and what to do."""
    return isinstance(error, BackupStorageError) and bool(re.search(r"s3://\S+", error.message)) and error.temporary


@pytest.mark.parametrize("seed", SEEDS)
async def test_everything_ends_right_while_a_fifth_of_all_requests_fails(
    lite, connect, name, url, faulty, honest, bucket, seed
):
    recipe = partitioned()
    create(lite.client, name, recipe)
    faulty.plan = some_of(seed, 0.2, *PASSING)

    async def ended(call):
        """What a call ends with. One request may meet more faults than it is repeated: then the call is."""
        for _ in range(3):
            error = await error_of(outcome := asyncio.ensure_future(call()))
            if error is None:
                return outcome.result()
            assert about_the_store(error), repr(error)
        raise AssertionError("three calls failed")

    async with connect(lite, root=url) as manager:
        for number in range(2):
            params = BackupParams(backup_name=f"{number}")
            backup = await ended(lambda params=params: manager.create_backup(name, params))
        assert (await ended(lambda: manager.verify_backup(backup.backup_id, name))).success
        assert (await ended(lambda: manager.verify_backup(backup.backup_id, name, QUICK))).success
        lite.client.drop_collection(name)
        loaded = RestoreParams(load_after_restore=True)
        assert (await ended(lambda: manager.restore_backup(backup.backup_id, name, loaded))).success
        copied = await ended(lambda: manager.copy_backup(backup.backup_id, to=f"s3://{bucket}/copy"))
        assert copied.verification.success
        pruned = await ended(lambda: manager.apply_retention_policy(name, **KEEP_ONE))
        assert (len(pruned["deleted_backup_ids"]), pruned["failed"]) == (1, {})
    assert read_all(lite.client, name) == expected(recipe)
    assert sum(faulty.faults.values()) >= 10, faulty.faults
    async with honest() as manager:
        assert await is_whole(manager, name) == [backup.backup_id]
    async with honest(root=f"s3://{bucket}/copy") as manager:
        assert await is_whole(manager, name) == [backup.backup_id]


@pytest.mark.parametrize("kind", ["truncate", "short", "stall"])
async def test_reads_that_break_off_end_short_or_fall_silent_are_made_again(
    lite, connect, name, url, faulty, honest, kind
):
    recipe = partitioned()
    create(lite.client, name, recipe)

    def broken(request: Request) -> bool:
        if kind == "stall":  # each silence takes a second
            return "/data/" in request.key and request.times < 2
        return request.times % 2 == 0

    faulty.plan = lambda request: Fault(kind) if request.method == "GET" and broken(request) else None
    async with connect(lite, root=url) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        assert await is_whole(manager, name) == [backup.backup_id]
        assert (await manager.verify_backup(backup.backup_id, name, QUICK)).success
        lite.client.drop_collection(name)
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
    assert read_all(lite.client, name) == expected(recipe)
    assert faulty.faults[kind] >= 3


async def test_a_file_that_always_comes_short_is_named_and_not_restored(
    lite, connect, name, url, faulty, honest, s3_server, bucket
):
    create(lite.client, name, partitioned())
    async with honest(lite) as manager:
        backup = await manager.create_backup(name)
    victim = data_files(s3_server, bucket)[0]
    lite.client.drop_collection(name)
    faulty.plan = lambda request: Fault("short") if request.method == "GET" and request.key.endswith(victim) else None
    async with connect(lite, root=url, max_retries=0) as manager:
        verified = await manager.verify_backup(backup.backup_id, name)
        assert (verified.success, verified.files_failed) == (False, [f"data/{victim}"])
        with pytest.raises(BackupCorruptedError, match=victim):
            await manager.restore_backup(backup.backup_id, name)
        with pytest.raises(BackupCorruptedError, match=victim):
            await manager.copy_backup(backup.backup_id, to=f"s3://{bucket}/copy")
    faulty.plan = None
    async with connect(lite, root=url) as manager:
        assert await is_whole(manager, name) == [backup.backup_id]
        with pytest.raises(BackupNotFoundError):
            await BackupManager.connect(None, f"s3://{bucket}/copy").get_backup(backup.backup_id)
    assert lite.client.list_collections() == []


def data_files(s3_server, bucket: str) -> list[str]:
    listed = s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]
    return sorted(entry["Key"].rsplit("/", 1)[1] for entry in listed if "/data/" in entry["Key"])


@pytest.mark.parametrize("fault", [Fault("status"), Fault("reset"), Fault("mute")], ids=lambda fault: fault.kind)
async def test_data_that_never_comes_is_an_error_about_that_object_and_changes_nothing(
    lite, connect, name, url, faulty, honest, bucket, fault
):
    create(lite.client, name, plain(200))
    async with honest(lite) as manager:
        backup = await manager.create_backup(name)
    before = read_all(lite.client, name)
    faulty.plan = lambda request: fault if request.method == "GET" and "/data/" in request.key else None
    async with connect(lite, root=url, max_retries=0) as manager:
        replace = RestoreParams(drop_existing=True, verify_before_restore=False)
        attempts = [
            lambda: manager.restore_backup(backup.backup_id, name, replace),
            lambda: manager.verify_backup(backup.backup_id, name),
            lambda: manager.verify_backup(backup.backup_id, name, QUICK),
            lambda: manager.copy_backup(backup.backup_id, to=f"s3://{bucket}/copy"),
        ]
        # Each waits out all the silence that there may be.
        for attempt in attempts if SOAK or fault.kind != "mute" else attempts[:1]:
            error = await error_of(attempt())
            assert about_the_store(error), repr(error)
            assert "/data/" in error.message
    assert read_all(lite.client, name) == before
    assert not lite.staging()
    faulty.plan = None
    async with honest() as manager:
        assert await is_whole(manager, name) == [backup.backup_id]
    async with honest(root=f"s3://{bucket}/copy") as manager:
        assert await manager.list_backups() == []


async def error_of(attempt) -> BackupRecoveryError | None:
    try:
        result = await attempt
    except BackupRecoveryError as error:
        return error
    return getattr(result, "error", None)


async def test_lists_that_lack_files_or_have_deleted_ones_damage_nothing(lite, connect, name, url, faulty, honest):
    create(lite.client, name, partitioned())
    async with connect(lite, root=url) as manager:
        backups = [await manager.create_backup(name, BackupParams(backup_name=f"{number}")) for number in range(3)]
        newest = backups[-1].backup_id

        faulty.lists.hidden = {"data/", "schema.json"}
        assert (await manager.verify_backup(newest, name)).success
        assert (await manager.verify_backup(newest, name, QUICK)).success
        assert faulty.faults["hidden"] > 0

        faulty.lists.hidden = set()
        faulty.lists.ghosts = True
        assert await manager.delete_backup(backups[0].backup_id, name)
        assert [backup.backup_id for backup in await manager.list_backups(name)] == [
            backup.backup_id for backup in backups[:0:-1]
        ]
        pruned = await manager.apply_retention_policy(name, **KEEP_ONE)
        assert (pruned["deleted_backup_ids"], pruned["failed"]) == ([backups[1].backup_id], {})
        made = await manager.create_backup(name, BackupParams(backup_name="0"))
        assert made.success, made.error_message
        assert await is_whole(manager, name) == [made.backup_id, newest]
        assert faulty.faults["ghosts"] > 0

        faulty.lists.ghosts = False
        faulty.lists.empty_page = True
        assert await is_whole(manager, name) == [made.backup_id, newest]
        pruned = await manager.apply_retention_policy(name, **KEEP_ONE)
        assert pruned["deleted_backup_ids"] == [newest]
    async with honest() as manager:
        assert await is_whole(manager, name) == [made.backup_id]


async def test_a_backup_that_a_list_lacks_is_there_and_safe(lite, connect, name, url, faulty, honest):
    create(lite.client, name, plain(50))
    async with connect(lite, root=url) as manager:
        made = [await manager.create_backup(name, BackupParams(backup_name=f"{number}")) for number in range(3)]
        ids = [backup.backup_id for backup in made]
        faulty.lists.hidden = {ids[2]}
        assert (await manager.get_backup(ids[2], name)).row_count == 50
        assert (await manager.verify_backup(ids[2], name)).success
        pruned = await manager.apply_retention_policy(name, **KEEP_ONE)
        assert pruned["deleted_backup_ids"] == [ids[0]], "the newest of those that are seen stays"
    async with honest() as manager:
        assert await is_whole(manager, name) == [ids[2], ids[1]]


FULL = {
    "507": Fault("status", 507, "InsufficientStorage"),
    "quota": Fault("status", 403, "QuotaExceeded"),
}
REFUSED = {
    "a small file": lambda request: request.method == "PUT" and request.key.endswith("schema.json"),
    "a part": lambda request: request.method == "PUT" and "partNumber" in request.query,
    "the completion": lambda request: request.method == "POST" and "uploadId" in request.query,
}
EVERY = [(words, what) for words in FULL for what in REFUSED]


@pytest.mark.parametrize(("words", "what"), EVERY if SOAK else [EVERY[0], EVERY[4], EVERY[2]])
async def test_a_store_that_is_full_is_told_as_such_and_leaves_no_half(
    lite, connect, name, url, faulty, honest, s3_server, bucket, words, what
):
    if what == "a small file":
        create(lite.client, name, plain(50))
    else:
        create_large(lite.address, name, 2_200, 1024)  # 9 MB, in one file, which goes up in two parts
    params = BackupParams(compression_enabled=False)
    async with connect(lite, root=url, auto_verify_after_backup=False) as manager:
        kept = await manager.create_backup(name, params)
        faulty.plan = lambda request: FULL[words] if REFUSED[what](request) else None
        result = await manager.create_backup(name, params)
        assert isinstance(result.error, InsufficientStorageError), repr(result.error)
        assert result.error.storage_path.startswith(url)
        assert "quota" in result.error.message
        # Options of its own: the store cannot copy by itself, and is written to.
        with pytest.raises(InsufficientStorageError, match="copy"):
            await manager.copy_backup(kept.backup_id, to=f"s3://{bucket}/copy", storage_options={"aws_region": "eu"})
        async with honest(root=f"s3://{bucket}/copy") as copy:
            assert await copy.list_backups() == []
        assert await is_whole(manager, name) == [kept.backup_id]
        faulty.plan = None
        async with honest() as later:
            assert await later.delete_backup(kept.backup_id, name)
    assert s3_server.client().list_objects_v2(Bucket=bucket, Prefix="some").get("Contents", []) == []
    assert s3_server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


async def test_a_large_file_is_there_although_the_answer_to_its_completion_was_lost(
    lite, connect, name, url, faulty, honest
):
    create_large(lite.address, name, 2_200, 1024)
    faulty.plan = lambda request: (
        Fault("reset", after=True)
        if request.method == "POST" and "uploadId" in request.query and not request.times
        else None
    )
    async with connect(lite, root=url, auto_verify_after_backup=False) as manager:
        backup = await manager.create_backup(name, BackupParams(compression_enabled=False))
        assert backup.success, backup.error_message
        assert faulty.faults["reset"] >= 1
    async with honest() as manager:
        assert await is_whole(manager, name) == [backup.backup_id]


async def test_where_nothing_may_be_deleted_a_deletion_touches_nothing(lite, connect, name, url, faulty):
    create(lite.client, name, plain(20))

    def denied(request: Request) -> Fault | None:
        deletes = request.method == "DELETE" or "delete" in request.query
        return Fault("status", 403, "AccessDenied") if deletes else None

    async with connect(lite, root=url) as manager:
        made = [await manager.create_backup(name, BackupParams(backup_name=f"{number}")) for number in range(2)]
        faulty.plan = denied
        with pytest.raises(BackupStorageError, match=re.escape(made[0].backup_id)) as failure:
            await manager.delete_backup(made[0].backup_id, name)
        assert failure.value.permissions_issue
        with pytest.raises(BackupStorageError) as failure:
            await manager.apply_retention_policy(name, **KEEP_ONE)
        assert failure.value.permissions_issue
        assert await is_whole(manager, name) == [made[1].backup_id, made[0].backup_id]


async def test_a_limit_on_the_bandwidth_is_no_silence_and_holds_for_a_sample_too(
    lite, connect, name, url, faulty, honest
):
    limit = 0.03 if SOAK else 0.4  # MiB per second: at full size, longer than any one request might take before
    create_large(lite.address, name, 2500, 128)
    async with honest(lite) as manager:
        backup = await manager.create_backup(name, BackupParams(compression_enabled=False))
    async with connect(lite, root=url, bandwidth_limit_mib=limit) as manager:
        begun = time.monotonic()
        assert (await manager.verify_backup(backup.backup_id, name)).success
        reads = [request for request in faulty.requests if request.method == "GET" and "/data/" in request.key]
        assert len(reads) == 1, "it was read in one go"
        between = time.monotonic()
        assert (await manager.verify_backup(backup.backup_id, name, QUICK)).success
    least = backup.size_mb / limit * 0.9
    assert between - begun >= least
    assert time.monotonic() - between >= least
