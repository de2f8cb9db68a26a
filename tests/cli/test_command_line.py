"""The command `milvault` from outside: what it prints, and what it exits with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.backup_files import data_files, leftovers
from tests.recipes import count, create, create_large, expected, partitioned, plain, read_all

DONE, FAILED, USAGE, PARTLY_DONE, NOT_FOUND, LOCKED, CORRUPT, INTERRUPTED = 0, 1, 2, 3, 10, 11, 12, 130


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "milvault", *map(str, arguments)]


@pytest.fixture
def milvault(lite_tcp, root):
    """Runs the command against Lite over TCP; asserts its exit code and gives its stdout, parsed where `--json`."""
    environment = {**os.environ, "MILVAULT_URI": lite_tcp.uri, "MILVAULT_ROOT": str(root), "NO_COLOR": "1"}

    def run(*arguments: str, exits: int = DONE):
        done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == exits, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done

    run.environment = environment
    return run


def test_a_collection_is_backed_up_lost_and_restored(milvault, lite_tcp, name, root):
    recipe = plain(400)
    create(lite_tcp.client, name, recipe)
    made = milvault("create", name, "--name", "first", "--tag", "nightly", "--json")
    assert made["success"] is True
    assert made["row_count"] == 400
    assert [backup["backup_id"] for backup in milvault("list", "--json")["backups"]] == [made["backup_id"]]
    assert milvault("show", "first", "--json")["tags"] == ["nightly"]
    assert milvault("verify", "first", "--json")["success"] is True

    lite_tcp.client.drop_collection(name)
    restored = milvault("restore", "first", "--load", "--json")
    assert restored["rows_restored"] == 400
    assert restored["verification_passed"] is True
    assert read_all(lite_tcp.client, name) == expected(recipe)

    assert milvault("delete", "first", "--yes", "--json")["deleted"] is True
    assert milvault("list", "--json")["backups"] == []
    assert leftovers(root) == []


def test_people_get_words_and_tables(milvault, lite_tcp, name):
    create(lite_tcp.client, name, plain(40))
    assert "40 rows" in milvault("create", name, "--name", "mine").stdout
    listed = milvault("list").stdout
    assert "mine" in listed
    assert name in listed
    assert "mine" in milvault("show", "mine").stdout
    assert "whole" in milvault("verify", "mine").stdout
    assert "40 rows" in milvault("restore", "mine", "--target", f"{name}_copy").stdout
    assert count(lite_tcp.client, f"{name}_copy") == 40


def test_partitions_compression_and_checksum_can_be_chosen(milvault, lite_tcp, name):
    create(lite_tcp.client, name, partitioned(90))
    options = ["--partition", "spring", "--no-compression", "--checksum", "BLAKE2B", "--json"]
    made = milvault("create", name, *options)
    assert made["row_count"] == 30
    assert made["metadata"]["checksum_algorithm"] == "BLAKE2B"
    assert made["metadata"]["compression_enabled"] is False
    assert made["metadata"]["backup_type"] == "PARTITION"


@pytest.mark.parametrize("arguments", [["show", "no-such"], ["verify", "no-such"], ["restore", "no-such"]])
def test_no_such_backup_exits_with_10(milvault, arguments):
    assert "no-such" in milvault(*arguments, exits=NOT_FOUND).stderr
    assert milvault(*arguments, "--json", exits=NOT_FOUND)["error"]["type"] == "BackupNotFoundError"


def test_several_collections_in_one_command(milvault, lite_tcp, name, root):
    others = [f"{name}_{number}" for number in range(2)]
    for collection in (name, *others):
        create(lite_tcp.client, collection, plain(3))
    made = milvault("create", name, "--filter", f"default.{others[0]},{others[1]}", "--name", "all", "--json")
    assert (made["success"], made["name"], made["row_count"]) == (True, "all", 9)
    assert [backup["collection_name"] for backup in made["backups"]] == [name, *others]
    every = milvault("create")
    assert all(f"3 rows of {collection} " in every.stdout for collection in (name, *others))
    partly = milvault("create", name, "nowhere", "--json", exits=PARTLY_DONE)
    assert [backup["success"] for backup in partly["backups"]] == [True, False]
    assert partly["backups"][1]["error"]["type"] == "CollectionNotFoundError"
    told = milvault("create", "nowhere", others[0], exits=PARTLY_DONE)
    assert f"3 rows of {others[0]} " in told.stdout
    assert "the backup of nowhere failed" in told.stderr
    milvault("create", "nowhere", "no.where", exits=FAILED)
    assert "has no database 'nodb'" in milvault("create", "nodb.*", exits=USAGE).stderr
    assert "has no database 'nodb'" in milvault("--db-name", "nodb", "create", exits=USAGE).stderr
    assert leftovers(root) == []


def test_a_missing_collection_exits_with_1_and_names_it(milvault):
    assert "nowhere" in milvault("create", "nowhere", exits=FAILED).stderr
    assert milvault("create", "nowhere", "--json", exits=FAILED)["error"]["type"] == "CollectionNotFoundError"


@pytest.mark.parametrize(
    "arguments", [["create", "x.y.z"], ["create", "x", "--level", "99"], ["nonsense"], ["list", "--x"]]
)
def test_wrong_usage_exits_with_2(milvault, arguments):
    milvault(*arguments, exits=USAGE)


def test_a_backup_by_milvus_backup_is_taken_in_read_at_a_moment_and_restored(milvault, lite_tcp, name, tmp_path):
    theirs = Path(__file__).parent.parent / "data" / "milvus-backup" / "fx_int"
    (taken,) = milvault("adopt", theirs, "--json")
    assert (taken["backup_name"], taken["row_count"]) == ("fx_int", 1882)
    now, then = tmp_path / "now.jsonl", tmp_path / "then.jsonl"
    milvault("export", "fx_int", now, "--columns", "pk", "--json")
    # Of 1970, when nothing had been written yet.
    milvault("export", "fx_int", then, "--columns", "pk", "--as-of", "1970-01-02T00:00:00Z", "--json")
    assert (len(now.read_text().splitlines()), len(then.read_text().splitlines())) == (1882, 0)
    milvault("export", "fx_int", tmp_path / "x.csv", "--as-of", "yesterday", exits=USAGE)
    restored = milvault("restore", "fx_int", "--target", name, "--via", "insert", "--json")
    assert (restored["rows_restored"], restored["verification_passed"]) == (1882, True)
    milvault("restore", "fx_int", "--target", f"{name}_too", "--via", "import", exits=USAGE)
    milvault("adopt", tmp_path, exits=NOT_FOUND)


def test_a_backup_by_milvus_backup_is_listed_verified_and_read_where_it_lies(milvault, root, tmp_path):
    theirs = Path(__file__).parent.parent / "data" / "milvus-backup" / "fx_int"
    shutil.copytree(theirs, root / "nightly")
    (listed,) = milvault("list", "--json")["backups"]
    assert (listed["backup_name"], listed["owner"]) == ("nightly", "MILVUS_BACKUP")
    assert "MILVUS_BACKUP" in milvault("list").stdout
    for place in ("nightly", listed["backup_id"], theirs):
        assert milvault("verify", place, "--json")["success"]
        milvault("export", place, tmp_path / "rows.jsonl", "--collection", "fx_int", "--overwrite")
        assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1882
    assert "MILVUS_BACKUP" in milvault("show", theirs).stdout
    refused = milvault("delete", "nightly", "--yes", "--json", exits=FAILED)
    assert refused["error"]["type"] == "ForeignBackupError"


def test_deleting_asks_first(milvault, lite_tcp, name):
    create(lite_tcp.client, name, plain(5))
    milvault("create", name, "--name", "mine")
    assert "--yes" in milvault("delete", "mine", exits=USAGE).stderr
    assert len(milvault("list", "--json")["backups"]) == 1


def test_a_damaged_backup_exits_with_12(milvault, lite_tcp, name):
    create(lite_tcp.client, name, plain(100))
    made = milvault("create", name, "--json")
    (file,) = data_files(made["storage_path"])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    found = milvault("verify", made["backup_id"], "--json", exits=CORRUPT)
    assert found["files_failed"] == [f"data/{file.name}"]
    assert file.name in milvault("verify", made["backup_id"], exits=CORRUPT).stdout
    refused = milvault("restore", made["backup_id"], "--target", f"{name}_copy", "--json", exits=CORRUPT)
    assert refused["error"]["type"] == "BackupCorruptedError"
    assert f"{name}_copy" not in lite_tcp.client.list_collections()


def _start_and_wait_for_lock(milvault, root: Path, name: str, *more: str) -> subprocess.Popen[str]:
    running = subprocess.Popen(
        command("create", name, "--no-verify", *more),
        env={**milvault.environment, "MILVAULT_BANDWIDTH_LIMIT_MIB": "2"},  # ten MB take five seconds
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not list(root.rglob(".lock.json")) and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(0.3)  # rows are being read
    return running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_exits_with_130_and_leaves_nothing(milvault, lite_tcp, name, root, number):
    create_large(lite_tcp.uri, name, 5_000, 512)
    running = _start_and_wait_for_lock(milvault, root, name, "--json")
    running.send_signal(number)
    output, errors = running.communicate(timeout=15)
    assert running.returncode == INTERRUPTED, errors
    assert json.loads(output)["error"]["type"] == "Interrupted"
    assert milvault("list", "--json")["backups"] == []
    assert leftovers(root) == []


def test_a_locked_collection_exits_with_11(milvault, lite_tcp, name, root):
    create_large(lite_tcp.uri, name, 5_000, 512)
    running = _start_and_wait_for_lock(milvault, root, name)
    try:
        refused = milvault("create", name, "--json", exits=LOCKED)
        assert refused["error"]["type"] == "BackupInProgressError"
    finally:
        running.communicate(timeout=60)
    assert running.returncode == DONE


def test_no_server_exits_with_1_and_says_where_it_looked(milvault):
    from tests.servers.process import free_ports

    uri = f"http://127.0.0.1:{free_ports(1)[0]}"
    milvault.environment["MILVAULT_MAX_RETRIES"] = "0"
    assert uri in milvault("--uri", uri, "create", "anything", exits=FAILED).stderr


def test_an_embedded_database_is_given_as_a_path(milvault, lite, name):
    from milvus_lite.server_manager import server_manager_instance

    create(lite.client, name, plain(25))
    server_manager_instance.release_server(lite.uri)  # the command is another process: the lock has to be free
    assert milvault("--uri", lite.uri, "create", name, "--json")["row_count"] == 25
