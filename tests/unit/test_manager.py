"""`BackupManager` over a core that does what the test wants: requests, outcomes, canceling, progress."""

import asyncio
import datetime
import json
import time

import numpy as np
import pytest

from milvault import (
    BackupCorruptedError,
    BackupManager,
    BackupNotFoundError,
    BackupParams,
    BackupRecoveryConfig,
    BackupRecoveryError,
    BackupState,
    BackupStorageError,
    BackupTimeoutError,
    CollectionManager,
    CollectionNotFoundError,
    ConnectionManager,
    InvalidArgumentError,
    OperationTimeoutError,
    ProgressStream,
    RestoreParams,
    RestoreTimeoutError,
    VerificationParams,
)

from .fake_core import METADATA, VERIFICATION, failure

URI = "http://127.0.0.1:19530"


@pytest.fixture
def manager(core):
    return BackupManager.connect(URI, "/backups", session_factory=core)


async def test_unset_fields_take_the_configs_values_and_set_ones_win(core):
    config = BackupRecoveryConfig(
        local_backup_root_path="/backups",
        compression_enabled=False,
        compression_level=2,
        default_chunk_size_mb=32,
        checksum_algorithm="BLAKE2B",
        max_concurrent_chunks=2,
        auto_verify_after_backup=False,
        default_backup_timeout=11,
    )
    manager = BackupManager.connect(URI, config=config, session_factory=core)
    await manager.create_backup("articles")
    unset = core.request
    assert unset == {
        "collection_name": "articles",
        "database": None,
        "backup_name": None,
        "backup_type": "FULL_COLLECTION",
        "storage_type": "LOCAL_FILE",
        "partition_names": [],
        "compression_enabled": False,
        "compression_level": 2,
        "chunk_size_mb": 32,
        "include_indexes": True,
        "tags": [],
        "duplicates": "fail",
        "source": "auto",
        "link": "NEVER",
        "prove_stable": False,
        "resume": True,
        "checksum_algorithm": "BLAKE2B",
        "max_concurrent_chunks": 2,
        "verify_after": False,
        "bandwidth_limit_mib": None,
        "timeout_seconds": 11.0,
    }
    await manager.create_backup("articles", BackupParams(compression_enabled=True, compression_level=6), timeout=5)
    assert core.request == {**unset, "compression_enabled": True, "compression_level": 6, "timeout_seconds": 5.0}


async def test_restore_and_verify_take_the_configs_values_too(core):
    config = BackupRecoveryConfig(
        auto_verify_before_restore=False,
        enable_checksum_verification=False,
        default_restore_timeout=12,
        verification_timeout=13,
    )
    manager = BackupManager.connect(URI, "/backups", config=config, session_factory=core)
    await manager.restore_backup("b1", "articles")
    assert (core.request["verify_before_restore"], core.request["timeout_seconds"]) == (False, 12.0)
    await manager.restore_backup("b1", "articles", RestoreParams(verify_before_restore=True))
    assert core.request["verify_before_restore"] is True
    await manager.verify_backup("b1", "articles")
    assert (core.request["verify_checksums"], core.request["timeout_seconds"]) == (False, 13.0)
    await manager.verify_backup("b1", "articles", VerificationParams(verify_checksums=True))
    assert core.request["verify_checksums"] is True
    await manager.create_backup("articles")
    assert core.request["verify_after"] is False


async def test_a_bandwidth_limit_comes_from_the_call_or_the_config(core):
    config = BackupRecoveryConfig(bandwidth_limit_mib=8)
    manager = BackupManager.connect(URI, "/backups", config=config, session_factory=core)
    for call, params in ((manager.create_backup, BackupParams), (manager.restore_backup, RestoreParams)):
        await call("b1")
        assert core.request["bandwidth_limit_mib"] == 8.0
        await call("b1", params=params(bandwidth_limit_mib=0.5))
        assert core.request["bandwidth_limit_mib"] == 0.5
        await call("b1", params=params(bandwidth_limit_mib=None))
        assert core.request["bandwidth_limit_mib"] is None
    await manager.verify_backup("b1")
    assert core.request["bandwidth_limit_mib"] == 8.0


async def test_the_core_is_told_where_and_who_and_how_often(core):
    config = BackupRecoveryConfig(storage_options={"aws_endpoint": "http://x"}, retry_transient_errors=False)
    manager = BackupManager.connect(URI, "s3://bucket/prefix", token="root:Milvus", config=config, session_factory=core)
    await manager.create_backup("articles")
    [sent] = core.configs
    assert sent["server"]["uri"] == sent["server"]["label"] == URI
    assert sent["server"]["token"] == "root:Milvus"
    assert sent["repository"] == {"root": "s3://bucket/prefix", "options": {"aws_endpoint": "http://x"}}
    assert sent["max_retries"] == 0


async def test_a_backup_becomes_a_result(manager):
    result = await manager.create_backup("articles")
    assert result.success
    assert result.error is None
    assert result.backup_id == METADATA["backup_id"]
    assert (result.row_count, result.size_mb, result.state) == (1797, 3.0, BackupState.COMPLETED)
    assert result.metadata.tags == ["nightly"]
    assert result.verification.files_verified == 5
    assert 0 < result.execution_time_ms < 5000


async def test_a_backup_that_does_not_verify_is_no_success(core, manager):
    found = {**VERIFICATION, "success": False, "errors": ["data/x differs"], "files_failed": ["data/x"]}
    core.answers["backup"]["ok"]["verification"] = found
    result = await manager.create_backup("articles")
    assert not result.success
    assert result.state is BackupState.FAILED
    assert "data/x differs" in result.error_message
    assert isinstance(result.error, BackupCorruptedError)
    assert result.error.failed_files == ["data/x"]


async def test_what_goes_wrong_while_a_backup_runs_is_told_by_the_result(core, manager):
    core.answers["backup"] = failure("storage", "disk full", started=True, storage_path="/backups/x", backup_id="b9")
    result = await manager.create_backup("articles", BackupParams(backup_name="mine"))
    assert (result.success, result.state, result.error_message) == (False, BackupState.FAILED, "disk full")
    assert (result.backup_id, result.backup_name, result.storage_path) == ("b9", "mine", "/backups/x")
    with pytest.raises(BackupStorageError, match="disk full"):
        result.raise_for_error()


async def test_what_is_wrong_before_a_backup_begins_raises(core, manager):
    core.answers["backup"] = failure("collection_not_found", "no articles", collection_name="articles")
    with pytest.raises(CollectionNotFoundError) as caught:
        await manager.create_backup("articles")
    assert caught.value.collection_name == "articles"


async def test_deadlines_are_results_of_backup_and_restore_and_raised_by_verify(core, manager):
    for operation in ("backup", "restore", "verify"):
        core.answers[operation] = failure("timeout", "too slow", started=True)
    assert isinstance((await manager.create_backup("articles")).error, BackupTimeoutError)
    assert isinstance((await manager.restore_backup("b1")).error, RestoreTimeoutError)
    with pytest.raises(OperationTimeoutError):
        await manager.verify_backup("b1")


async def test_a_failed_restore_names_its_target(core, manager):
    core.answers["restore"] = failure("restore", "server gone", started=True)
    result = await manager.restore_backup("b1", "articles", RestoreParams(target_collection_name="copy"))
    assert (result.success, result.backup_id, result.target_collection_name) == (False, "b1", "copy")
    assert result.error_message == "server gone"


async def test_verification_returns_damage_and_raises_for_a_missing_backup(core, manager):
    core.answers["verify"] = {"ok": {**VERIFICATION, "success": False, "errors": ["gone"], "files_failed": ["data/x"]}}
    result = await manager.verify_backup("b1", "articles")
    assert (result.success, result.has_errors, result.files_failed) == (False, True, ["data/x"])
    core.answers["verify"] = failure("backup_not_found", "no b1", backup_id="b1")
    with pytest.raises(BackupNotFoundError):
        await manager.verify_backup("b1", "articles")


async def test_listing_filters_and_pages(core, manager):
    def backup(number, **changes):
        return {**METADATA, "backup_id": f"b{number}", "created_at": f"2026-11-{number:02d}T00:00:00Z", **changes}

    backups = [backup(5, tags=["a", "b"]), backup(4, state="FAILED"), backup(3, tags=["b"]), backup(2)]
    core.answers["list"] = {"ok": {"backups": backups, "damaged": []}}

    async def ids(**filters):
        return [each.backup_id for each in await manager.list_backups(**filters)]

    assert await ids() == ["b5", "b4", "b3", "b2"]
    assert await ids(state=BackupState.FAILED) == ["b4"]
    assert await ids(state="FAILED") == ["b4"]
    assert await ids(backup_type="FULL_COLLECTION") == ["b5", "b4", "b3", "b2"]
    assert await ids(tags=["b"]) == ["b5", "b3"]
    assert await ids(tags=(tag for tag in ("b",))) == ["b5", "b3"]
    assert await ids(tags=["a", "b"]) == ["b5"]
    third = datetime.datetime(2026, 11, 3, tzinfo=datetime.timezone.utc)
    assert await ids(created_after=third) == ["b5", "b4", "b3"]
    assert await ids(created_before=third) == ["b2"]
    assert await ids(offset=1, limit=2) == ["b4", "b3"]
    assert await ids(limit=0) == []


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"state": "verified"}, "state has to be one of NONE, .*VERIFIED, not 'verified'"),
        ({"backup_type": "junk"}, "backup_type has to be one of FULL_COLLECTION, PARTITION, INCREMENTAL, not 'junk'"),
        ({"tags": "manual"}, "tags has to be a list of tags, not 'manual'"),
        ({"tags": [1]}, "tags has to be a list of tags"),
        ({"limit": "3"}, "limit has to be a number"),
        ({"offset": None}, "offset has to be a number"),
        ({"database": 5}, "database has to be a name"),
        ({"created_after": "2026-01-01"}, "created_after has to be a datetime"),
    ],
    ids=str,
)
async def test_a_filter_that_could_match_nothing_is_refused(core, manager, filters, told):
    with pytest.raises(InvalidArgumentError, match=told):
        await manager.list_backups(**filters)
    assert core.requests == []


async def test_a_manifest_with_what_none_may_hold_is_not_listed_and_is_corrupt_when_asked_for(core, manager, caplog):
    bad = {**METADATA, "backup_id": "b_bad", "schema_snapshot": "hunter2", "created_at": "+99999-01-01T00:00:00Z"}
    core.answers["list"] = {"ok": {"backups": [bad, METADATA], "damaged": []}}
    assert [each.backup_id for each in await manager.list_backups()] == [METADATA["backup_id"]]
    assert "b_bad" in caplog.text
    core.answers["get"] = {"ok": bad}
    with pytest.raises(BackupCorruptedError, match=r"created_at, schema_snapshot") as caught:
        await manager.get_backup("b_bad")
    assert (caught.value.failed_files, caught.value.backup_id) == (["metadata.json"], "b_bad")
    assert "hunter2" not in str(caught.value) + caplog.text


async def test_listing_asks_for_the_connections_database_and_for_all_without_a_server(core):
    await BackupManager.connect(URI, "/backups", db_name="db2", session_factory=core).list_backups()
    assert core.request == {"collection_name": None, "database": "db2"}
    await BackupManager.connect(None, "/backups", session_factory=core).list_backups("articles")
    assert core.request == {"collection_name": "articles", "database": None}
    await BackupManager.connect(URI, "/backups", session_factory=core).list_backups(database="db3")
    assert core.request == {"collection_name": None, "database": "db3"}


async def test_naive_times_and_senseless_arguments_are_refused(manager):
    for attempt in (
        lambda: manager.list_backups(created_after=datetime.datetime(2026, 1, 1)),
        lambda: manager.list_backups(limit=-1),
        lambda: manager.list_backups(""),
        lambda: manager.create_backup(""),
        lambda: manager.create_backup(None),
        lambda: manager.create_backup("a", timeout=0),
        lambda: manager.create_backup("a", timeout=float("nan")),
        lambda: manager.create_backup("a", progress=7),
        lambda: manager.get_backup(""),
    ):
        with pytest.raises(InvalidArgumentError):
            await attempt()


WRONG_TYPES = {
    "params": lambda m: m.create_backup("a", {"tags": ["x"]}),
    "params of several": lambda m: m.create_backups("a", params={"tags": ["x"]}),
    "params of another sort": lambda m: m.create_backup("a", RestoreParams()),
    "params of a restore": lambda m: m.restore_backup("b1", "a", {"dry_run": True}),
    "params of a verification": lambda m: m.verify_backup("b1", "a", {"fail_fast": True}),
    "filter": lambda m: m.create_backups(7),
    "filter of numbers": lambda m: m.create_backups([7]),
    "name": lambda m: m.create_backups("a", 7),
    "collection_name": lambda m: m.verify_backup("b1", 7),
    "collection_name of a check": lambda m: m.check(7),
    "timeout": lambda m: m.create_backup("a", timeout="9"),
    "timeout of a check": lambda m: m.check(timeout=True),
    "to": lambda m: m.copy_backup("b1", to=None),
    "storage_options": lambda m: m.copy_backup("b1", to="/x", storage_options={"aws_region": 7}),
    "verify_after": lambda m: m.copy_backup("b1", to="/x", verify_after="no"),
    "source": lambda m: m.adopt_backup(None),
    "tags": lambda m: m.adopt_backup("/x", tags="manual"),
    "link": lambda m: m.adopt_backup("/x", link=["REFLINK"]),
    "dry_run": lambda m: m.apply_retention_policy(dry_run="no"),
    "retention_days": lambda m: m.apply_retention_policy(retention_days=1.5),
    "retention_tags": lambda m: m.apply_retention_policy(retention_tags=[1]),
    "database": lambda m: m.apply_retention_policy(database=7),
    "interval_days": lambda m: m.verify_due(interval_days="7"),
    "columns": lambda m: m.open_backup("b1", columns=7),
    "partition_names": lambda m: m.open_backup("b1", partition_names="p"),
    "where": lambda m: m.open_backup("b1", where=7),
    "as_of": lambda m: m.open_backup("b1", as_of="today"),
    "path": lambda m: m.export_backup("b1", None),
    "overwrite": lambda m: m.export_backup("b1", "x.csv", overwrite="no"),
    "backup_id": lambda m: m.get_backup(7),
    "backup_id of a deletion": lambda m: m.delete_backup(None),
    "collection_name of a collection": lambda m: m.collection_manager.drop_collection(None),
}


@pytest.mark.parametrize("wrong", WRONG_TYPES)
async def test_an_argument_of_a_wrong_type_is_refused_by_its_name(core, manager, wrong):
    with pytest.raises(InvalidArgumentError, match=rf"^{wrong.split()[0]}"):
        await WRONG_TYPES[wrong](manager)
    assert core.requests == []


@pytest.mark.parametrize(
    "wrong", [{"uri": 7}, {"token": 7}, {"db_name": 7}, {"ca_file": 7}, {"connect_timeout_seconds": "9"}], ids=str
)
def test_a_connections_argument_of_a_wrong_type_is_refused_by_its_name(wrong):
    with pytest.raises(InvalidArgumentError, match=f"^{next(iter(wrong))}"):
        ConnectionManager(**wrong)


async def test_what_counts_as_a_number_is_one(manager):
    assert len(await manager.list_backups(limit=np.int64(1))) == 1
    assert (await manager.create_backup("a", timeout=np.float32(9))).success


@pytest.mark.parametrize(
    ("attempt", "word", "instead"),
    [
        (lambda m: m.create_backup("a", BackupParams(storage_type="MILVUS_NATIVE")), "MILVUS_NATIVE", "LOCAL_FILE"),
        (lambda m: m.create_backup("a", BackupParams(backup_type="INCREMENTAL")), "INCREMENTAL", "FULL_COLLECTION"),
        (lambda m: m.create_backup("a", BackupParams(base="b1")), "base", "FULL_COLLECTION"),
    ],
)
async def test_what_this_version_cannot_do_is_refused_with_what_to_use(core, manager, attempt, word, instead):
    with pytest.raises(InvalidArgumentError, match=rf"(?s){word}.*{instead}"):
        await attempt(manager)
    assert core.requests == []


async def test_without_a_server_the_repository_still_works(core):
    manager = BackupManager.connect(None, "/backups", session_factory=core)
    assert (await manager.list_backups())[0].backup_id == METADATA["backup_id"]
    assert (await manager.get_backup("b1")).collection_name == "articles"
    assert (await manager.verify_backup("b1")).success
    assert await manager.delete_backup("b1") is True
    assert [config["server"] for config in core.configs] == [None]
    with pytest.raises(BackupRecoveryError, match="no server"):
        await manager.create_backup("articles")


async def test_the_repository_of_a_lite_database_is_read_without_opening_the_database(core, tmp_path):
    manager = BackupManager.connect(tmp_path / "held_by_a_notebook.db", "/backups", session_factory=core)
    await manager.list_backups()
    assert core.configs[0]["server"] is None


async def test_one_session_serves_all_calls_and_is_closed_with_the_manager(core):
    async with BackupManager.connect(URI, "/backups", session_factory=core) as manager:
        await manager.create_backup("articles")
        await manager.list_backups()
    assert (len(core.configs), core.closed) == (1, 1)
    with pytest.raises(BackupRecoveryError, match="closed"):
        await manager.list_backups()
    await manager.close()


def test_a_manager_survives_several_event_loops(core, manager):
    for _ in range(3):
        assert asyncio.run(manager.create_backup("articles")).success
    assert len(core.configs) == 1


async def test_what_the_core_refuses_to_start_is_a_clear_error(core, manager):
    core.dead = "this session was made before a fork; make a new BackupManager in the child"
    with pytest.raises(BackupRecoveryError, match="before a fork"):
        await manager.list_backups()


async def test_the_event_loop_stays_free_while_a_job_runs(core, manager):
    core.held = True
    task = asyncio.create_task(manager.create_backup("articles"))
    ticks = 0
    for _ in range(20):
        await asyncio.sleep(0.005)
        ticks += 1
    assert (ticks, task.done()) == (20, False)
    core.jobs[0].end()
    assert (await task).success


async def test_canceling_the_task_cancels_the_job_and_waits_for_it_to_clean_up(core, manager):
    core.held = True
    task = asyncio.create_task(manager.create_backup("articles"))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [job] = core.jobs
    assert job.canceled
    assert json.loads(job.result())["error"]["kind"] == "canceled"


async def test_canceling_again_does_not_cut_the_cleaning_short(core, manager):
    core.held = True
    task = asyncio.create_task(manager.create_backup("articles"))
    await asyncio.sleep(0.02)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert json.loads(core.jobs[0].result())["error"]["kind"] == "canceled"


async def test_a_job_that_will_not_end_does_not_hold_a_canceled_task_for_ever(core, manager, monkeypatch, caplog):
    monkeypatch.setattr("milvault._jobs.CANCEL_GRACE_SECONDS", 0.1)
    core.held = core.deaf = True
    task = asyncio.create_task(manager.create_backup("articles"))
    await asyncio.sleep(0.02)
    began = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0.09 < time.perf_counter() - began < 2
    assert "next run cleans up" in caplog.text


async def test_wait_for_raises_its_timeout_after_the_job_has_cleaned_up(core, manager):
    core.held = True
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(manager.create_backup("articles"), 0.05)
    assert core.jobs[0].canceled


async def test_a_session_that_is_closed_under_a_job_gives_a_canceled_result(core, manager):
    core.answers["backup"] = failure("canceled", "closed", started=True)
    assert (await manager.create_backup("articles")).state is BackupState.CANCELED


async def run_with_progress(core, sink, *, interval=0.01):
    config = BackupRecoveryConfig(progress_poll_interval=interval)
    manager = BackupManager.connect(URI, "/backups", config=config, session_factory=core)
    core.held = True
    task = asyncio.create_task(manager.create_backup("articles", progress=sink))
    for rows in (0, 250, 500, 1000):
        await asyncio.sleep(0.03)
        core.jobs[0].counters = {
            "phase": "reading",
            "rows_processed": rows,
            "total_rows": 1000,
            "bytes_processed": rows * 512,
            "total_bytes": 512_000,
            "started_at": time.time() - 1,
        }
    core.jobs[0].end()
    return await task


async def test_progress_reaches_a_plain_callback_and_ends_with_done(core):
    seen = []
    await run_with_progress(core, seen.append)
    percentages = [each.percentage for each in seen]
    assert percentages == sorted(percentages)
    assert seen[-1].is_complete
    assert seen[-1].percentage == 100.0
    assert all(each.percentage < 100 for each in seen[:-1])
    assert len(seen) > 4


async def test_progress_reaches_an_async_callback(core):
    seen = []

    async def sink(progress):
        await asyncio.sleep(0)
        seen.append(progress)

    await run_with_progress(core, sink)
    assert seen[-1].is_complete


async def test_progress_can_be_iterated_over_until_the_job_ends(core):
    stream = ProgressStream()
    task = asyncio.create_task(run_with_progress(core, stream))
    seen = [progress.percentage async for progress in stream]
    assert seen[-1] == 100.0
    assert (await task).success


async def test_iterating_ends_also_where_the_call_is_refused_before_it_begins(manager):
    for attempt in (lambda sink: manager.create_backup("", progress=sink), refused_by_closing(manager)):
        stream = ProgressStream()
        with pytest.raises(BackupRecoveryError):
            await attempt(stream)
        assert [each async for each in stream] == []


async def test_iterating_over_the_progress_of_several_ends_with_the_last(core, manager):
    stream = ProgressStream()
    task = asyncio.create_task(manager.create_backups("films, books, songs", progress=stream))
    seen = [progress async for progress in stream]
    assert [each.is_complete for each in seen].count(True) == 3
    assert task.done() or (await task).success
    # And where it is refused before the first of them.
    for wanted, options in (("", {}), ("films", {"params": BackupParams(backup_name="a"), "name": "b"})):
        stream = ProgressStream()
        with pytest.raises(InvalidArgumentError):
            await manager.create_backups(wanted, progress=stream, **options)
        assert [each async for each in stream] == []


async def test_a_sink_for_several_is_told_once_that_this_was_all(core, manager):
    told = []

    class Sink:
        def __call__(self, progress):
            told.append(progress.phase)

        def finish(self):
            told.append("finish")

    await manager.create_backups("films, books", progress=Sink())
    assert [each for each in told if each in ("done", "finish")] == ["done", "done", "finish"]


async def test_several_have_a_bar_each(core, manager, capsys):
    await manager.create_backups("films, books", progress=True)
    told = capsys.readouterr().err
    assert "Backing up films" in told
    assert "Backing up books" in told


def refused_by_closing(manager):
    async def attempt(sink):
        await manager.close()
        await manager.create_backup("articles", progress=sink)

    return attempt


async def test_a_callback_that_raises_is_told_no_more_and_the_backup_goes_on(core, caplog):
    calls = []

    def sink(progress):
        calls.append(progress)
        raise ValueError("the user's own mistake")

    assert (await run_with_progress(core, sink)).success
    assert len(calls) == 1
    assert "the user's own mistake" in caplog.text


async def test_progress_of_a_canceled_job_ends_as_failed(core, manager):
    seen = []
    core.held = True
    task = asyncio.create_task(manager.create_backup("articles", progress=seen.append))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen[-1].is_failed
    assert seen[-1].phase == "canceled"


async def test_a_bar_is_drawn_for_true(core, capsys):
    assert (await run_with_progress(core, True)).success
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Backing up articles" in captured.err


def test_managers_are_put_together_as_in_the_quick_start(core):
    connection_manager = ConnectionManager()
    collection_manager = CollectionManager(connection_manager)
    config = BackupRecoveryConfig(local_backup_root_path="/path/to/backups", compression_enabled=True)
    manager = BackupManager(connection_manager=connection_manager, collection_manager=collection_manager, config=config)
    assert manager.connection_manager is connection_manager
    assert repr(manager) == "BackupManager(server='http://localhost:19530', repository='/path/to/backups')"
    assert BackupManager(collection_manager=collection_manager).connection_manager is connection_manager


async def test_a_collection_manager_repeats_as_often_as_the_manager_that_it_belongs_to(core):
    config = BackupRecoveryConfig(max_retries=7, retry_delay_seconds=0.5)
    connection = ConnectionManager(URI)
    given = CollectionManager(connection, session_factory=core)
    own = CollectionManager(connection, config=BackupRecoveryConfig(max_retries=1), session_factory=core)
    managers = [
        BackupManager(connection, config=config, session_factory=core),
        BackupManager(connection, given, config, session_factory=core),
        BackupManager(connection, own, config, session_factory=core),
    ]
    for manager in managers:
        await manager.collection_manager.list_collections()
    assert [made["max_retries"] for made in core.configs] == [7, 7, 1]
    assert core.configs[0]["retry_delay_seconds"] == 0.5


async def test_collections_are_listed_described_counted_and_dropped(core):
    collections = CollectionManager(ConnectionManager(URI), session_factory=core)
    assert await collections.list_collections() == ["articles"]
    assert await collections.has_collection("articles") is True
    assert (await collections.describe_collection("articles"))["name"] == "articles"
    assert await collections.count("articles") == 7
    await collections.drop_collection("articles")
    assert core.requests[-1] == ("drop_collection", {"collection_name": "articles"})
    assert core.configs[0]["repository"] is None
    core.answers["describe_collection"] = {"ok": {"name": "articles", "row_count": None}}
    with pytest.raises(BackupRecoveryError, match="not loaded"):
        await collections.count("articles")
