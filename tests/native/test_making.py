"""Native backups: what is copied is what the server wrote, it shows one moment, and nothing else is ever listed."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pymilvus import Collection, MilvusClient, connections

from milvault import (
    BackupManager,
    BackupParams,
    BackupRecoveryConfig,
    BackupStorageError,
    BackupStorageType,
    BackupType,
    InvalidArgumentError,
)
from tests.backup_files import json_file, leftovers
from tests.conftest import SOAK, Milvus, files_under
from tests.docs.test_examples import python_blocks
from tests.docs.test_pages import NATIVE, run
from tests.faults.processes import run_child
from tests.native.binlogs import alive, segments
from tests.recipes import create, dynamic, partition_key, partitioned, plain, vector_of

pytestmark = [pytest.mark.server]

KEY = 100
"""Milvus's number of the first field."""


def collection_number(server: Milvus, name: str) -> int:
    return int(server.client.describe_collection(name)["collection_id"])


async def test_the_copied_files_are_the_servers_own_and_all_of_them_have_checksums(server, milvus_server, native, name):
    create(server.client, name, partitioned(900))
    server.client.delete(name, ids=list(range(40)))
    async with native() as manager:
        made = await manager.create_backup(name, BackupParams(backup_name="first", tags=["nightly"]))
    made.raise_for_error()
    folder = Path(made.storage_path)
    sums = json_file(folder, "checksums.json")
    present = {path for path in files_under(folder) if path not in ("metadata.json", "checksums.json")}
    assert set(sums["files"]) == present - {"verification.json"}
    for path, content in files_under(folder).items():
        if path in sums["files"]:
            assert sums["files"][path] == {"bytes": len(content), "checksum": hashlib.sha256(content).hexdigest()}

    live = {info.segment_id: info.num_rows for info in server.client.list_persistent_segments(name)}
    copied = segments(folder)
    assert [segment.number for segment in copied] == sorted(live)
    number = collection_number(server, name)
    for path, content in files_under(folder / "binlogs").items():
        kind, collection, partition, group, segment, *rest = path.split("/")
        assert (int(collection), group) == (number, segment)
        own = milvus_server.data / kind / collection / partition / segment
        assert own.joinpath(*rest).read_bytes() == content
    for segment in copied:
        assert len(segment.column(KEY)) == live[segment.number]
        theirs = milvus_server.data / "insert_log" / str(number) / str(segment.partition) / str(segment.number)
        assert set(files_under(theirs)) == set(files_under(segment.inserts))

    assert made.metadata.storage_type is BackupStorageType.MILVUS_NATIVE
    assert made.metadata.tags == ["nightly"]
    assert made.metadata.snapshot["kind"] == "snapshot"
    assert sorted(made.metadata.partition_names) == ["_default", "autumn", "spring"]
    assert made.metadata.segment_count == len(copied)
    assert made.metadata.size_bytes == sum(map(len, files_under(folder / "binlogs").values()))
    assert (made.metadata.is_verified, made.state.value) == (True, "VERIFIED")
    at = made.metadata.snapshot["timestamp"]
    assert alive(folder, KEY, at) == list(range(40, 900))
    assert made.row_count == 860
    rows = {partition: entry["rows"] for partition, entry in made.metadata.digest["partitions"].items()}
    assert sum(rows.values()) == 860
    assert len(rows) == 3
    assert "digest" not in made.metadata.digest["partitions"]["_default"]


async def test_the_metadata_is_milvus_backups_own(server, native, name):
    create(server.client, name, dynamic(300))
    server.client.delete(name, ids=[1, 2, 3])
    async with native() as manager:
        made = await manager.create_backup(name)
    made.raise_for_error()
    folder = Path(made.storage_path)
    theirs = Path(__file__).parents[1] / "data" / "milvus-backup" / "fx_int" / "meta"
    ours = {path.name: json.loads(path.read_text()) for path in (folder / "meta").iterdir()}
    assert set(ours) == {path.name for path in theirs.iterdir()}
    full = ours["full_meta.json"]
    assert full["name"] == made.backup_id
    [collection] = full["collection_backups"]
    fixture = json.loads((theirs / "full_meta.json").read_text())
    assert set(fixture) <= set(full)
    # One thing more than v0.5.16 writes of Milvus 2.3.5: the timestamp of the snapshot, which it writes of newer ones.
    assert set(collection) - set(fixture["collection_backups"][0]) == {"backup_timestamp"}
    # Strong consistency is 0, which Go leaves out.
    assert set(fixture["collection_backups"][0]) - set(collection) == {"consistency_level"}
    assert collection["backup_timestamp"] == made.metadata.snapshot["timestamp"]
    assert collection["collection_id"] == collection_number(server, name)
    assert collection["schema"]["enable_dynamic_field"] is True
    assert [field["name"] for field in collection["schema"]["fields"]] == ["id", "vector"]
    assert collection["load_state"] == "Loaded"
    [partition] = collection["partition_backups"]
    theirs_of_partition = fixture["collection_backups"][0]["partition_backups"][0]
    assert set(partition) == set(theirs_of_partition)
    for segment in partition["segment_backups"]:
        assert set(segment) <= set(theirs_of_partition["segment_backups"][0])
        logs = [log for field in segment["binlogs"] for log in field["binlogs"]]
        place = (
            f"{collection['collection_id']}/{partition['partition_id']}/{segment['group_id']}/{segment['segment_id']}"
        )
        for field in segment["binlogs"]:
            for log in field["binlogs"]:
                copied = folder / f"binlogs/insert_log/{place}/{field.get('fieldID', 0)}/{log['log_id']}"
                assert copied.stat().st_size == log["log_size"]
        deletes = [log for entry in segment.get("deltalogs", []) for log in entry["binlogs"]]
        for log in deletes:
            assert (folder / f"binlogs/delta_log/{place}/{log['log_id']}").stat().st_size == log["log_size"]
        assert segment["size"] == sum(log["log_size"] for log in [*logs, *deletes])
    assert ours["segment_meta.json"]["infos"] == partition["segment_backups"]
    assert ours["backup_meta.json"]["size"] == collection["size"] == partition["size"] == made.size_bytes
    assert json_file(folder, "schema.json") == made.metadata.schema_snapshot


@pytest.mark.filterwarnings("ignore:.*ORM-style")  # the client that tells a row's timestamp
async def test_a_backup_under_writers_shows_exactly_what_was_there_at_its_timestamp(server, native, name):
    create(server.client, name, plain(500))
    connections.connect(alias=name, uri=server.uri)
    collection = Collection(name, using=name)
    stop, written, failed = threading.Event(), [], []
    lock = threading.Lock()

    def write(worker: int) -> None:
        number = 0
        try:
            while not stop.is_set():
                keys = [1_000_000 * (worker + 1) + number * 20 + offset for offset in range(20)]
                inserted = collection.insert([keys, [vector_of(key) for key in keys]])
                if number % 2:
                    collection.delete(f"id in {keys[:5]}")
                with lock:
                    written.append((keys, inserted.timestamp))
                number += 1
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(3)]
    for writer in writers:
        writer.start()
    async with native() as manager:
        try:
            made = [await manager.create_backup(name) for _ in range(3)]
        finally:
            stop.set()
            for writer in writers:
                await asyncio.to_thread(writer.join)
            connections.disconnect(name)
        last = await manager.create_backup(name)
    assert not failed
    # A delete is not told its time by the server: the files have it, and those of later backups have all of them.
    deleted: dict[int, int] = {}
    for backup in [*made, last]:
        backup.raise_for_error()
        deleted.update(entry for segment in segments(backup.storage_path) for entry in segment.deleted())
    assert len(deleted) > 100
    for backup in made:
        at = backup.metadata.snapshot["timestamp"]
        expected = list(range(500))
        for keys, inserted in written:
            expected += [key for key in keys if inserted <= at and deleted.get(key, at + 1) > at]
        assert alive(backup.storage_path, KEY, at) == sorted(expected)
        assert backup.row_count == len(expected)
    assert made[0].row_count < made[-1].row_count


@pytest.mark.skipif(not SOAK, reason="compacts for a minute; make soak runs it")
async def test_compaction_takes_nothing_from_the_moment(server, native, name):
    create(server.client, name, plain(4000))
    server.client.flush(name)
    stop, failed, deleted = threading.Event(), [], []

    def churn() -> None:
        try:
            for batch in range(190):
                if stop.is_set():
                    return
                keys = list(range(batch * 20, batch * 20 + 20))
                before = time.time() * 1000
                server.client.delete(name, ids=keys)
                deleted.append((keys, before, time.time() * 1000))
                if batch % 4 == 3:  # a small segment more, for the server to merge with the others
                    new = plain(100, start=10_000 + batch * 100)
                    server.client.insert(name, new.rows)
                    server.client.flush(name)
                    server.client.compact(name)
        except Exception as error:  # noqa: BLE001 - told below
            failed.append(error)

    churning = threading.Thread(target=churn)
    churning.start()
    made = []
    async with native() as manager:
        try:
            while churning.is_alive() and len(made) < 20:
                made.append(await manager.create_backup(name))
        finally:
            stop.set()
            await asyncio.to_thread(churning.join)
    assert not failed
    whole = [backup for backup in made if backup.success]
    for backup in made:
        assert backup.success or "compaction" in backup.error_message, backup.error_message
    assert len(whole) > 3
    for backup in whole:
        at = backup.metadata.snapshot["timestamp"]
        milliseconds = at >> 18
        there = alive(backup.storage_path, KEY, at)
        assert len(there) == len(set(there)) == backup.row_count
        for keys, before, after in deleted:
            if before > milliseconds + 100:
                assert set(keys) <= set(there), "a row is missing that was deleted later"
            if after < milliseconds - 100:
                assert not set(keys) & set(there), "a row is there that was deleted before"
        assert set(range(3800, 4000)) <= set(there)
    lists = [{segment.number for segment in segments(backup.storage_path)} for backup in whole]
    assert any(not before <= after for before, after in itertools.pairwise(lists)), "nothing was compacted"


async def test_a_backup_of_partitions_holds_their_segments_alone(server, native, name):
    create(server.client, name, partitioned(300))
    params = BackupParams(backup_type=BackupType.PARTITION, partition_names=["spring"])
    async with native() as manager:
        made = await manager.create_backup(name, params)
    made.raise_for_error()
    assert made.metadata.partition_names == ["spring"]
    assert list(made.metadata.digest["partitions"]) == ["spring"]
    assert alive(made.storage_path, KEY, made.metadata.snapshot["timestamp"]) == list(range(1, 300, 3))
    [collection] = json_file(made.storage_path, "meta/full_meta.json")["collection_backups"]
    assert [partition["partition_name"] for partition in collection["partition_backups"]] == ["spring"]


async def test_rows_that_a_partition_key_spreads_count_together(server, native, name):
    create(server.client, name, partition_key(300))
    async with native() as manager:
        made = await manager.create_backup(name)
    made.raise_for_error()
    assert made.metadata.digest["partitions"] == {"_all": {"rows": 300, "older_rows": 0}}
    assert len({segment.partition for segment in segments(made.storage_path)}) > 1


async def test_a_collection_without_rows_is_backed_up_as_such(server, native, name):
    create(server.client, name, plain(0))
    async with native() as manager:
        made = await manager.create_backup(name)
    made.raise_for_error()
    assert (made.row_count, made.metadata.segment_count) == (0, 0)
    assert any("no rows" in warning for warning in made.warnings)


@pytest.mark.parametrize("storage_type", BackupStorageType)
async def test_the_members_of_a_set_show_one_moment(storage_type, server, native, name):
    names = [f"{name}_a", f"{name}_b"]
    for each in names:
        create(server.client, each, plain(50))
    async with native() as manager:
        params = BackupParams(storage_type=storage_type)
        made = await manager.create_backups([*names, "not_there"], "both", params=params)
    assert [backup.success for backup in made.backups] == [True, True, False]
    first, second, missing = made.backups
    assert first.metadata.snapshot["timestamp"] == second.metadata.snapshot["timestamp"]
    assert {first.backup_name, second.backup_name} == {"both"}
    assert "not_there" in missing.error_message


@pytest.mark.parametrize("storage_type", BackupStorageType)
async def test_a_collection_that_is_named_by_an_alias_is_copied_as_itself(storage_type, server, native, name):
    create(server.client, name, plain(50))
    alias = f"{name}_alias"
    server.client.create_alias(name, alias)
    async with native() as manager:
        made = await manager.create_backup(alias, BackupParams(storage_type=storage_type))
        made.raise_for_error()
        assert (made.metadata.collection_name, made.metadata.snapshot["kind"]) == (name, "snapshot")
        (member,) = (await manager.create_backups([alias], params=BackupParams(storage_type=storage_type))).backups
        member.raise_for_error()
        assert member.metadata.collection_name == name


async def test_a_set_of_everything_notes_who_may_do_what(server, native, name, root):
    create(server.client, name, plain(20))
    client = MilvusClient(server.uri, token="root:Milvus")  # a grant wants to know who grants it
    user, role = f"user_{name[-8:]}", f"role_{name[-8:]}"
    client.create_user(user, "hunter2-secret")
    client.create_role(role)
    client.grant_role(user, role)
    client.grant_privilege(role, "Collection", "Insert", name)
    try:
        async with native() as manager:
            made = await manager.create_backups(name="everything")
            assert [backup.backup_name for backup in await manager.list_backups(name)] == ["everything"]
    finally:
        client.revoke_privilege(role, "Collection", "Insert", name)
        client.revoke_role(user, role)
        client.drop_role(role)
        client.drop_user(user)
        client.close()
    made.raise_for_error()
    note = Path(made.storage_path)
    assert note.parent == root / "_sets"
    assert b"hunter2-secret" not in note.read_bytes()
    noted = json.loads(note.read_text())
    assert noted["set_id"] == note.stem
    [own] = [backup for backup in made.backups if backup.collection_name == name]
    assert {"database": "default", "collection_name": name, "backup_id": own.backup_id} in noted["members"]
    assert noted["timestamp"] == own.metadata.snapshot["timestamp"]
    assert noted["access"] == made.access
    assert user in made.access["users"]
    assert {"name": role, "users": [user]} in made.access["roles"]
    [grant] = [grant for grant in made.access["grants"] if grant["role"] == role]
    assert (grant["object"], grant["object_name"], grant["privilege"]) == ("Collection", name, "Insert")
    assert leftovers(root) == [f"_sets/{note.name}"]


async def test_a_collection_need_not_be_loaded(server, native, name):
    create(server.client, name, plain(60), load=False)
    async with native() as manager:
        made = await manager.create_backup(name)
    made.raise_for_error()
    assert made.row_count == 60
    [collection] = json_file(made.storage_path, "meta/full_meta.json")["collection_backups"]
    assert collection["load_state"] == "NotLoad"


async def test_a_file_that_goes_while_it_is_copied_means_another_moment(server, native, mirror, name, root):
    create(server.client, name, partition_key(3000))
    server.client.flush(name)
    mirror.refresh()
    last = mirror.files(collection_number(server, name))[-1]
    phases: list[str] = []

    def watch(progress: Any) -> None:
        if not phases or phases[-1] != progress.phase:
            phases.append(progress.phase)
            if phases.count("writing") == 1:
                last.unlink(missing_ok=True)
            if phases[-2:] == ["writing", "flushing"]:
                mirror.refresh()

    async with native(milvus_storage=str(mirror.folder), progress_poll_interval=0.002) as manager:
        # Slowly, so that the last file goes before it is its turn.
        made = await manager.create_backup(name, BackupParams(bandwidth_limit_mib=0.2), progress=watch)
    made.raise_for_error()
    # What the second round has left to copy may be written between two looks at the progress; a flush is not.
    assert ("writing", "flushing") in itertools.pairwise(phases), phases
    assert alive(made.storage_path, KEY, made.metadata.snapshot["timestamp"]) == list(range(3000))
    assert set(json_file(made.storage_path, "checksums.json")["files"]) == {
        path for path in files_under(Path(made.storage_path)) if "/" in path or path == "schema.json"
    }
    assert leftovers(root) == []


async def test_a_segment_without_files_is_named_and_nothing_is_listed(server, native, mirror, name, root):
    create(server.client, name, plain(200))
    server.client.flush(name)
    mirror.refresh()
    [info] = server.client.list_persistent_segments(name)
    number = collection_number(server, name)
    for file in mirror.files(number):
        file.unlink()
    async with native(milvus_storage=str(mirror.folder)) as manager:
        with pytest.raises(BackupStorageError, match=f"segment {info.segment_id} .*no backup was made") as raised:
            await manager.create_backup(name)
        assert list(await manager.list_backups(name)) == []
    assert str(info.segment_id) in raised.value.storage_path
    assert leftovers(root) == []


async def test_a_segment_whose_field_has_a_file_too_few_is_named_and_nothing_is_left(
    server, native, mirror, name, root
):
    create(server.client, name, plain(200))
    server.client.flush(name)
    mirror.refresh()
    [info] = server.client.list_persistent_segments(name)
    [gone] = [file for file in mirror.files(collection_number(server, name)) if file.parent.name == "101"]
    gone.unlink()
    async with native(milvus_storage=str(mirror.folder)) as manager:
        made = await manager.create_backup(name)
        assert not made.success
        assert f"segment {info.segment_id} " in made.error_message
        assert "'vector'" in made.error_message
        assert list(await manager.list_backups(name)) == []
    assert leftovers(root) == []


async def test_a_file_cut_short_is_never_part_of_a_backup(server, native, mirror, name, root):
    create(server.client, name, plain(200))
    server.client.flush(name)
    mirror.refresh()
    file = mirror.files(collection_number(server, name))[0]
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-9])
    async with native(milvus_storage=str(mirror.folder)) as manager:
        made = await manager.create_backup(name)
    assert not made.success
    assert file.name in made.error_message
    assert leftovers(root) == []


async def test_a_canceled_backup_leaves_nothing(server, native, name, root):
    create(server.client, name, plain(5000, dim=32))
    async with native(progress_poll_interval=0.005) as manager:
        writing = asyncio.Event()
        task = asyncio.create_task(
            manager.create_backup(
                name,
                BackupParams(bandwidth_limit_mib=0.1),
                progress=lambda progress: writing.set() if progress.phase == "writing" else None,
            )
        )
        await asyncio.wait_for(writing.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert leftovers(root) == []
        made = await manager.create_backup(name)
    made.raise_for_error()


async def test_what_a_killed_run_leaves_is_swept_by_the_next(server, milvus_server, native, name, root):
    create(server.client, name, partition_key(2000))
    job = {
        "operation": "backup",
        "uri": server.uri,
        "root": str(root),
        "collection": name,
        "milvus_storage": str(milvus_server.data),
        "params": {"storage_type": "MILVUS_NATIVE", "bandwidth_limit_mib": 0.2},
        "kill": {"phases": ["writing"], "delay": 0.3, "needs": f"{root}/*/*/binlogs/insert_log/*/*/*/*/*/*"},
    }
    code, last = run_child(job)
    assert (code, last) == (-9, {"died_in": "writing"})
    left = leftovers(root)
    assert any("binlogs/insert_log" in path for path in left)
    async with native() as manager:
        assert list(await manager.list_backups(name)) == []
        made = await manager.create_backup(name)
        made.raise_for_error()
        assert [backup.backup_id for backup in await manager.list_backups(name)] == [made.backup_id]
    assert leftovers(root) == []
    assert [path.name for path in root.glob(f"{name}/b*")] == [made.backup_id]


@pytest.mark.skipif(not SOAK, reason="dies 30 times; make soak runs it")
async def test_whenever_a_run_is_killed_what_is_listed_is_whole(server, milvus_server, native, name, root):
    create(server.client, name, partition_key(2000))
    job = {
        "operation": "backup",
        "uri": server.uri,
        "root": str(root),
        "collection": name,
        "milvus_storage": str(milvus_server.data),
        "params": {"storage_type": "MILVUS_NATIVE", "bandwidth_limit_mib": 0.5},
    }
    rng = random.Random(20261121)
    died: Counter[str] = Counter()
    for _ in range(30):
        phase = rng.choice(["flushing", "writing", "writing", "counting"])
        code, last = run_child({**job, "kill": {"phases": [phase], "delay": rng.random() * 0.5}})
        died[last.get("died_in", "survived")] += 1
        assert code in (-9, 0), last
    print(f"\nkilled native backups died in: {dict(died)}")
    async with native() as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
        for backup in await manager.list_backups(name):
            assert (await manager.verify_backup(backup.backup_id, name)).success
            assert alive(backup.storage_path, KEY, backup.snapshot["timestamp"]) == list(range(2000))
    assert leftovers(root) == []
    assert len(died) > 2


async def test_a_deleted_backups_name_is_free_again(server, native, name, root):
    create(server.client, name, plain(50))
    params = BackupParams(backup_name="nightly")
    async with native() as manager:
        first = await manager.create_backup(name, params)
        first.raise_for_error()
        assert await manager.delete_backup("nightly", name)
        assert leftovers(root) == []
        assert not Path(first.storage_path).exists()
        second = await manager.create_backup(name, params)
    second.raise_for_error()
    assert second.backup_id != first.backup_id


async def test_without_milvus_storage_a_native_backup_says_what_is_missing(server, connect, name):
    create(server.client, name, plain(5))
    async with connect(server) as manager:
        with pytest.raises(InvalidArgumentError, match=r"milvus_storage.*LOCAL_FILE"):
            await manager.create_backup(name, BackupParams(storage_type="MILVUS_NATIVE"))


async def test_milvus_lite_has_no_files_to_copy_and_that_is_said(lite, root, name, tmp_path):
    create(lite.client, name, plain(5))
    config = BackupRecoveryConfig(
        local_backup_root_path=str(root), milvus_storage=str(tmp_path), default_storage_type="MILVUS_NATIVE"
    )
    async with BackupManager.connect(lite.uri, config=config) as manager:
        with pytest.raises(InvalidArgumentError, match="LOCAL_FILE"):
            await manager.create_backup(name)


async def test_the_servers_own_configuration_says_where_its_files_are(server, milvus_server, native, name):
    create(server.client, name, plain(70))
    [file] = milvus_server.base.rglob("milvus.yaml")
    async with native(milvus_storage=str(file)) as manager:
        made = await manager.create_backup(name)
    made.raise_for_error()
    assert made.row_count == 70


async def test_the_page_about_native_backups_runs_as_printed(server, milvus_server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    create(server.client, "articles", plain(30))
    server.client.flush("articles")
    first, *others = python_blocks(NATIVE)
    for printed, ours in (("http://localhost:19530", server.uri), ("/var/lib/milvus/data", str(milvus_server.data))):
        assert printed in first
        first = first.replace(printed, ours)
    names: dict[str, Any] = {}
    for block in (first, *others):
        await run(NATIVE, block, names)
    await names["manager"].close()
    assert "30 snapshot" in capsys.readouterr().out
