"""`check`: what is wrong is named before the first backup, and where Milvus's files are instead, if they are found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from milvault import BackupManager, CheckResult, InvalidArgumentError
from tests.backup_files import leftovers
from tests.recipes import create, plain

pytestmark = [pytest.mark.server]


def named(found: CheckResult, name: str):
    [check] = [check for check in found.checks if check.name == name]
    return check


async def test_everything_is_as_it_has_to_be(server, native, name, root):
    create(server.client, name, plain(20))
    server.client.flush(name)
    async with native() as manager:
        found = await manager.check(name)
    assert found.success
    assert [check.success for check in found.checks] == [True, True, True, True]
    assert "2 fields" in named(found, "collection").message
    assert "2.3.5" in named(found, "server").message
    assert name in named(found, "milvus_storage").message
    assert leftovers(root) == []


async def test_a_root_path_that_is_wrong_is_named_and_the_right_one_too(server, milvus_server, native, name, tmp_path):
    create(server.client, name, plain(20))
    server.client.flush(name)
    data = milvus_server.data
    for wrong, right in ((data.parent, data), (data / "insert_log", data), (data / "etcd.data", data)):
        async with native(milvus_storage=str(wrong)) as manager:
            found = await manager.check(name)
        assert not found.success
        told = named(found, "milvus_storage")
        assert told.success is False
        assert str(wrong) in told.message
        assert f"are in {right}: the root path is wrong" in told.message
    other = tmp_path / "another"
    (other / "insert_log" / "123").mkdir(parents=True)
    for wrong, why in ((other, "another Milvus"), (tmp_path / "nowhere" / "at" / "all", "there is no insert_log")):
        async with native(milvus_storage=str(wrong)) as manager:
            told = named(await manager.check(name), "milvus_storage")
        assert told.success is False
        assert why in told.message
        assert "wrong" in told.message


async def test_files_that_are_lost_are_told_from_a_wrong_place(server, native, mirror, name):
    create(server.client, name, plain(20))
    server.client.flush(name)
    mirror.refresh()
    number = server.client.describe_collection(name)["collection_id"]
    for file in mirror.files(number):
        file.unlink()
    async with native(milvus_storage=str(mirror.folder)) as manager:
        told = named(await manager.check(name), "milvus_storage")
    assert told.success is False
    assert "older copy" in told.message


async def test_before_anything_was_flushed_nothing_can_be_told(server, native, name, tmp_path):
    create(server.client, name, plain(0))
    async with native(milvus_storage=str(tmp_path)) as manager:
        found = await manager.check(name)
    assert found.success
    assert named(found, "milvus_storage").success is None


async def test_a_server_that_does_not_answer_and_a_repository_that_is_none_are_findings(tmp_path, connect):
    file = tmp_path / "file"
    file.touch()
    async with connect("http://127.0.0.1:9", root=tmp_path / "backups", max_retries=0) as manager:
        found = await manager.check()
    assert not found.success
    assert [check.success for check in found.checks] == [False, True]
    assert "http://127.0.0.1:9" in named(found, "server").message
    async with connect("http://127.0.0.1:9", root=file, max_retries=0) as manager:
        assert str(file) in named(await manager.check(), "repository").message
    async with BackupManager.connect(str(tmp_path / "missing.db"), tmp_path / "backups") as manager:
        found = await manager.check()
        assert [(check.name, check.success) for check in found.checks] == [("server", False), ("repository", True)]
        with pytest.raises(InvalidArgumentError):
            await manager.check(timeout=0)


async def test_milvus_lite_is_checked_without_storage_of_its_own(lite, connect, name):
    async with connect(lite) as manager:
        found = await manager.check()
    assert found.success
    assert [check.name for check in found.checks] == ["server", "repository"]


async def test_a_collection_that_is_not_there_is_a_finding(lite, connect, name):
    create(lite.client, name, plain(3))
    async with connect(lite) as manager:
        found = await manager.check(f"{name}_typo")
    assert [(check.name, check.success) for check in found.checks] == [
        ("server", True), ("collection", False), ("repository", True)
    ]  # fmt: skip
    assert name in named(found, "collection").message


async def test_what_does_not_answer_in_time_is_a_finding_and_the_rest_is_looked_at(tmp_path, connect):
    async with connect("http://127.0.0.1:9", root=tmp_path / "backups", retry_delay_seconds=60) as manager:
        found = await manager.check(timeout=1)
    assert [(check.name, check.success) for check in found.checks] == [("server", False), ("repository", True)]
    assert "no answer came in the time allowed" in named(found, "server").message


def test_the_command_line_checks_and_makes_native_backups(server, milvus_server, name, root):
    create(server.client, name, plain(25))
    server.client.flush(name)
    command = [sys.executable, "-m", "milvault", "--uri", server.uri, "--root", str(root)]

    def run(*arguments: str, storage: Path) -> tuple[int, str]:
        done = subprocess.run(
            [*command, "--milvus-storage", str(storage), *arguments], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    code, shown = run("check", name, storage=milvus_server.data)
    assert code == 0
    said = [line.partition(":")[0] for line in shown.splitlines()]
    assert said == ["server", "collection", "repository", "milvus storage"]
    code, shown = run("check", name, "--json", storage=milvus_server.data.parent)
    assert code == 1
    assert json.loads(shown)["checks"][3]["success"] is False
    code, shown = run("create", name, "--native", "--json", storage=milvus_server.data)
    assert code == 0
    made = json.loads(shown)
    assert (made["storage_type"], made["row_count"]) == ("MILVUS_NATIVE", 25)
