"""Repositories that may only be read: by our own setting, by a store that refuses, by a disk that is mounted so."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest

from milvault import (
    BackupParams,
    BackupStorageError,
    ReadOnlyRepositoryError,
    RestoreParams,
    VerificationParams,
)
from tests.conftest import files_under
from tests.recipes import create, expected, partitioned, plain, read_all
from tests.servers.s3_proxy import Fault, FaultyS3

QUICK = VerificationParams(verification_type="QUICK")
DEEP = VerificationParams(verification_type="DEEP")
KEEP_ONE = {"retention_count": 1, "retention_days": 0, "min_backups_to_keep": 0}


@dataclass
class Place:
    """A repository for a test: where, and what makes it read-only from then on."""

    root: str
    refuses: str
    settings: dict[str, object]
    proxy: FaultyS3 | None = None
    content: object = None

    def close_for_writing(self) -> None:
        """From now on nothing can be written."""
        if self.proxy is not None:
            self.proxy.plan = lambda request: (
                Fault("status", 403, "AccessDenied")
                if request.writes and not request.key.endswith("/elsewhere")
                else None
            )
        self.content = self.files()

    def files(self) -> object:
        """All that is in it."""
        return files_under(Path(self.root)) if "://" not in self.root else None


@pytest.fixture(params=["read_only", pytest.param("denied", marks=pytest.mark.s3)])
def place(request, root) -> Iterator[Place]:
    """A folder opened with `read_only`; a bucket whose policy lets nothing be written."""
    if request.param == "read_only":
        yield Place(str(root), "read_only", {"read_only": True})
        return
    server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("bucket")
    proxy = FaultyS3(server.endpoint)
    request.getfixturevalue("monkeypatch").setenv("AWS_ENDPOINT", proxy.endpoint)
    yield Place(f"s3://{bucket}/backups", "denied", {}, proxy)
    proxy.close()


@asynccontextmanager
async def opened(connect, milvus, place: Place, **settings):
    async with connect(milvus, root=place.root, **{**place.settings, **settings}) as manager:
        yield manager
    assert place.files() == place.content


async def test_what_only_reads_works(lite, connect, name, place, tmp_path):
    recipe = partitioned()
    create(lite.client, name, recipe)
    async with connect(lite, root=place.root, auto_verify_after_backup=False) as manager:
        backup = await manager.create_backup(name, BackupParams(backup_name="mine"))
        assert backup.success, backup.error_message
    place.close_for_writing()
    async with opened(connect, lite, place) as manager:
        assert [found.backup_id for found in await manager.list_backups(name)] == [backup.backup_id]
        for params in (None, QUICK, DEEP):
            verified = await manager.verify_backup("mine", name, params)
            assert verified.success, verified.errors
            assert len([warning for warning in verified.warnings if "noted beside the backup" in warning]) == 1
        assert not (await manager.get_backup("mine", name)).is_verified
        with await manager.open_backup("mine", name, columns=["id"]) as reader:
            assert pa.table(reader).num_rows == 300
        await manager.export_backup("mine", tmp_path / "rows.parquet", collection_name=name)
        copied = await manager.copy_backup("mine", name, to=tmp_path / "copy")
        assert copied.verification.success
        plan = await manager.apply_retention_policy(name, dry_run=True, **KEEP_ONE)
        assert list(plan["kept"]) == [backup.backup_id]


async def test_what_changes_it_is_refused_before_anything_is_touched(lite, connect, name, place, tmp_path):
    create(lite.client, name, plain(20))
    async with connect(lite, root=place.root) as manager:
        made = [await manager.create_backup(name, BackupParams(backup_name=f"{number}")) for number in range(2)]
        elsewhere = connect(lite, root=tmp_path / "other")
        other = await elsewhere.create_backup(name)
    place.close_for_writing()
    expected_error = ReadOnlyRepositoryError if place.refuses == "read_only" else BackupStorageError
    async with opened(connect, lite, place) as manager:
        for attempt in (
            lambda: manager.create_backup(name),
            lambda: manager.delete_backup(made[0].backup_id, name),
            lambda: manager.apply_retention_policy(name, **KEEP_ONE),
        ):
            with pytest.raises(expected_error) as failure:
                (await attempt()).raise_for_error()
            assert failure.value.permissions_issue
            assert place.root in failure.value.message
        assert [backup.backup_id for backup in await manager.list_backups(name)] == [
            backup.backup_id for backup in reversed(made)
        ]
    if place.refuses == "denied":
        with pytest.raises(BackupStorageError, match=place.root):
            await elsewhere.copy_backup(other.backup_id, to=place.root)
    await elsewhere.close()


async def test_a_restore_into_a_new_collection_goes_without_a_journal_and_says_so(lite, connect, name, place):
    recipe = partitioned()
    create(lite.client, name, recipe)
    async with connect(lite, root=place.root) as manager:
        backup = await manager.create_backup(name)
    place.close_for_writing()
    lite.client.drop_collection(name)
    async with opened(connect, lite, place) as manager:
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
        assert any("journal_root" in warning for warning in restored.warnings)
        canceled = await manager.restore_backup(
            backup.backup_id, name, RestoreParams(target_collection_name=f"{name}_2"), timeout=0.001
        )
        assert not canceled.success
    assert read_all(lite.client, name) == expected(recipe)
    assert lite.client.list_collections() == [name], "nothing is left of the one that failed"


async def test_a_restore_that_replaces_needs_a_place_for_its_journal(lite, connect, name, place, tmp_path):
    recipe = partitioned()
    create(lite.client, name, recipe)
    async with connect(lite, root=place.root) as manager:
        backup = await manager.create_backup(name)
    place.close_for_writing()
    lite.client.delete(name, filter=f"{recipe.key} < 100")
    before = read_all(lite.client, name)
    replace = RestoreParams(drop_existing=True, load_after_restore=True)
    async with opened(connect, lite, place) as manager:
        for params in (replace, RestoreParams(into_existing=True, on_conflict="SKIP")):
            with pytest.raises(BackupStorageError, match="journal_root") as failure:
                (await manager.restore_backup(backup.backup_id, name, params)).raise_for_error()
            assert failure.value.permissions_issue
    assert read_all(lite.client, name) == before
    journals = tmp_path / "journals"
    async with opened(connect, lite, place, journal_root=str(journals)) as manager:
        seen = []
        restored = await manager.restore_backup(
            backup.backup_id, name, replace, progress=lambda _: seen.extend(journals.rglob("*.json"))
        )
        assert restored.success, restored.error_message
        assert not any("journal_root" in warning for warning in restored.warnings)
    assert read_all(lite.client, name) == expected(recipe)
    assert seen, "the journal is kept there while it lasts"
    assert not list(journals.rglob("*.json"))
    assert not lite.staging()


async def test_an_interrupted_restore_is_cleared_up_from_the_place_of_its_journal(
    lite_tcp, connect, name, root, tmp_path
):
    create(lite_tcp.client, name, partitioned())
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
    journals = str(tmp_path / "journals")
    script = (
        "import asyncio, os, signal\n"
        "from milvault import *\n"
        "def die(progress):\n"
        "    if progress.phase in ('writing', 'restoring', 'inserting', 'proving', 'swapping'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        f"config = BackupRecoveryConfig(local_backup_root_path={str(root)!r}, read_only=True, "
        f"journal_root={journals!r}, progress_poll_interval=0.001)\n"
        f"manager = BackupManager.connect({lite_tcp.uri!r}, config=config)\n"
        "replace = RestoreParams(drop_existing=True)\n"
        f"asyncio.run(manager.restore_backup({backup.backup_id!r}, {name!r}, replace, progress=die))\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -9, killed.stderr
    assert list(Path(journals).rglob("*.json"))
    async with connect(lite_tcp, read_only=True, journal_root=journals) as manager:
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(drop_existing=True))
        assert restored.success, restored.error_message
    assert not lite_tcp.staging()
    assert not list(Path(journals).rglob("*.json"))


async def test_a_restore_noted_in_the_repository_is_not_run_over(lite_tcp, connect, name, root):
    create(lite_tcp.client, name, partitioned())
    async with connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
        lite_tcp.client.drop_collection(name)
        noted = {}

        def look(_: object) -> None:
            for file in root.glob(".restores/*.json"):
                noted[file.name] = file.read_bytes()

        await manager.restore_backup(backup.backup_id, name, progress=look)
    assert noted
    lite_tcp.client.drop_collection(name)
    for file, content in noted.items():
        (root / ".restores").mkdir(exist_ok=True)
        record = json.loads(content)
        record["pid"] = 2**22 + 1  # nobody's: it has died
        (root / ".restores" / file).write_text(json.dumps(record))
    async with connect(lite_tcp, read_only=True) as manager:
        with pytest.raises(Exception, match="under way or interrupted") as failure:
            (await manager.restore_backup(backup.backup_id, name)).raise_for_error()
        assert type(failure.value).__name__ == "BackupInProgressError"
    assert lite_tcp.client.list_collections() == []
    async with connect(lite_tcp) as manager:
        assert (await manager.restore_backup(backup.backup_id, name)).success


def on_a_read_only_mount(folder: Path, *commands: list[str]) -> list[tuple[int, dict]]:
    """Runs commands of `milvault` where `folder` is mounted read-only: exit codes, and what they say in JSON."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mount namespaces, and so no folder that is mounted read-only")
    at = shlex.quote(str(folder))
    steps = [f"mount --bind {at} {at}", f"mount -o remount,ro,bind {at}"]
    for command in commands:
        line = shlex.join([sys.executable, "-W", "ignore", "-m", "milvault", "--json", *command])
        steps.append(f'{{ {line}; echo "exit $?"; }}')
    done = subprocess.run([*unshare, "sh", "-c", " && ".join(steps)], capture_output=True, text=True, timeout=240)
    parts = done.stdout.split("\nexit ")
    assert len(parts) == len(commands) + 1, done.stderr
    texts = [parts[0], *(part.partition("\n")[2] for part in parts[1:-1])]
    return [(int(part.partition("\n")[0]), json.loads(text)) for text, part in zip(texts, parts[1:], strict=True)]


async def test_a_folder_that_is_mounted_read_only(lite_tcp, connect, name, root):
    recipe = partitioned()
    create(lite_tcp.client, name, recipe)
    async with connect(lite_tcp, auto_verify_after_backup=False) as manager:
        backup = await manager.create_backup(name)
    before, where = files_under(root), ["--root", str(root), "--uri", lite_tcp.uri]
    listed, verified, restored, refused, deleted, pruned, created = on_a_read_only_mount(
        root,
        [*where, "list"],
        [*where, "verify", backup.backup_id],
        [*where, "restore", backup.backup_id, "--target", f"{name}_new", "--load"],
        [*where, "restore", backup.backup_id, "--drop-existing"],
        [*where, "delete", backup.backup_id, "--yes"],
        [*where, "--read-only", "prune"],
        [*where, "create", name],
    )
    assert [entry["backup_id"] for entry in listed[1]["backups"]] == [backup.backup_id]
    assert verified[1]["success"]
    assert any("noted beside the backup" in warning for warning in verified[1]["warnings"])
    assert restored[1]["success"]
    assert read_all(lite_tcp.client, f"{name}_new") == expected(recipe)
    for code, said in (refused, deleted, created):
        assert code == 1, said
        assert said["error"]["permissions_issue"], said
    assert "journal_root" in refused[1]["error"]["message"]
    assert pruned[1]["error"]["type"] == "ReadOnlyRepositoryError"
    assert files_under(root) == before
    lite_tcp.client.drop_collection(f"{name}_new")
