"""Seeded SIGKILLs of the process, in each phase of backup, restore, copy, delete and retention, on a disk and on S3.

After each: what is listed verifies, no older backup is lost, the target is whole (the old or the new), a backup that
died is gone on with from all chunks but the one that was open, and the next runs leave no trace of the dead one. 200
kills with MILVAULT_SOAK=1 (`make soak`), 24 otherwise; the histogram of phases is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from milvault import BackupManager, BackupParams, RestoreParams
from tests.backup_files import leftovers
from tests.conftest import SOAK, STAGING, client_of
from tests.faults.processes import run_child
from tests.recipes import Recipe, create, expected, plain, read_all

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3000 if SOAK else 900)]

SEED = 20261121
SIZE = (12_000, 32) if SOAK else (3_000, 64)
"""Rows and dimension of what is backed up and restored."""

# A moment to die in: the operation, the phases that count as it, the longest delay after its beginning, in seconds.
# A backup's lock is taken while it counts; checksums, manifest and the folder's fsync are written in "writing".
MOMENTS: dict[str, tuple[str, list[str], float]] = {
    "backup: lock": ("backup", ["waiting", "counting"], 0.005),
    "backup: reading": ("backup", ["reading"], 0.15),
    "backup: committing": ("backup", ["writing"], 0.008),
    "restore: staging": ("restore", ["inserting", "flushing", "indexing"], 0.3),
    "restore: proving": ("restore", ["loading", "proving"], 0.1),
    "restore: swapping": ("restore", ["swapping", "cleaning"], 0.012),
    "delete": ("delete", ["deleting"], 0.004),
    "copy": ("copy", ["writing"], 0.02),
    "retention": ("prune", ["pruning"], 0.02),
}


class Disk:
    """A repository in a folder, seen from outside."""

    def __init__(self, root: Path) -> None:
        self.url = str(root)
        self._root = root

    def files(self) -> list[str]:
        """Paths of all files, relative to the root."""
        while self._root.exists():
            with contextlib.suppress(FileNotFoundError):  # a folder went while it was walked: look again
                return [str(path.relative_to(self._root)) for path in self._root.rglob("*") if path.is_file()]
        return []

    def read(self, path: str) -> bytes:
        """A file's content."""
        return (self._root / path).read_bytes()


class Bucket:
    """A repository in a bucket of its own, seen with boto3."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.url = f"s3://{bucket}"
        self._client, self._bucket = client, bucket

    def files(self) -> list[str]:
        """All keys."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def read(self, path: str) -> bytes:
        """An object's content."""
        return self._client.get_object(Bucket=self._bucket, Key=path)["Body"].read()


def left(place: Disk | Bucket) -> list[str]:
    """Whatever is in a repository beside whole backups."""
    files = place.files()
    manifests = [path for path in files if path.endswith("/metadata.json")]
    whole = {
        path[: -len("metadata.json")] for path in manifests if json.loads(place.read(path))["state"] == "COMPLETED"
    }
    return sorted(path for path in files if not any(path.startswith(folder) for folder in whole))


class Scene:
    """A repository and a server on which process after process dies, and what must hold in between."""

    def __init__(self, uri: str, place: Disk | Bucket, copies: Path, name: str, rows: int, dim: int) -> None:
        self.uri, self.place, self.name, self.copies = uri, place, name, copies
        self.target = f"{name}_target"
        self.client = client_of(uri)
        self.source = plain(rows, dim=dim)
        self.states = {"old": plain(rows, dim=dim, start=10**6), "new": self.source}
        self.backups: dict[str, str] = {}
        self.manager: BackupManager | None = None
        self.dead_collection = name
        self.job: dict[str, Any] = {}
        self.gone_for_a_while = 0
        self.chunks = {"adopted": 0, "read again": 0, "inserted before": 0}

    async def prepare(self, manager: BackupManager) -> None:
        """The source, the target in its old state, a backup of each state."""
        self.manager = manager
        create(self.client, self.name, self.source)
        small = plain(20)
        create(self.client, f"{self.name}_small", Recipe(small.fields, small.rows))
        create(self.client, self.target, self.states["old"])
        self.client.create_alias(self.target, f"{self.name}_alias")
        self.backups["old"] = await self._backup(self.target)
        self.backups["new"] = await self._backup(self.name)

    async def _backup(self, collection: str) -> str:
        made = await self.manager.create_backup(collection, BackupParams(chunk_size_mb=1, tags=["base"]))
        assert made.success, made.error_message
        return made.backup_id

    @property
    def on_disk(self) -> bool:
        """Whether the repository is in a folder."""
        return isinstance(self.place, Disk)

    def state_of_target(self) -> str | None:
        """Which of the two the target is, row by row; None where it is missing; fails where it is neither."""
        if self.target not in self.client.list_collections():
            return None
        self.client.load_collection(self.target)
        rows = read_all(self.client, self.target)
        for state, recipe in self.states.items():
            if rows == expected(recipe):
                return state
        raise AssertionError(f"the target holds {len(rows)} rows and is neither the old nor the new collection")

    async def kill(self, moment: str, rng: random.Random) -> str | None:
        """Lets one process die; the phase that it died in, or None where it finished first."""
        operation, phases, longest = MOMENTS[moment]
        job = {
            "operation": operation,
            "uri": self.uri,
            "root": self.place.url,
            "collection": self.name,
            "kill": {"phases": phases, "delay": round(rng.uniform(0, longest), 4)},
        }
        if moment == "backup: lock":
            job["kill"] |= {"needs": f"{self.place.url}/{self.name}/.lock.json"} if self.on_disk else {}
        if operation == "restore":
            now = self.state_of_target()
            wanted = "old" if now == "new" else "new"
            job |= {
                "backup": self.backups[wanted],
                "collection": self.target if wanted == "old" else self.name,
                "params": {"target_collection_name": self.target, "drop_existing": True},
            }
        if operation in ("delete", "copy"):
            job |= {"backup": await self._backup(self.name), "to": str(self.copies)}
        if operation == "prune":
            for _ in range(3):
                await self.manager.create_backup(self.name)
            # Two of the three go.
            job["policy"] = {
                "retention_count": 1,
                "retention_days": 0,
                "min_backups_to_keep": 1,
                "retention_tags": ["base"],
            }
        self.dead_collection = job["collection"]
        self.job = job
        code, said = run_child(job)
        if code == 0:
            assert said["success"], said
            return None
        assert code == -9, (code, said)
        await asyncio.sleep(0.5)  # the server may still be at what the dead process asked for last
        return said["died_in"]

    async def check(self, died: str) -> None:
        """What must hold at once, and after the next run."""
        for listed in await self.manager.list_backups():
            verification = await self.manager.verify_backup(listed.backup_id, listed.collection_name)
            assert verification.success, f"after dying in {died}: {listed.backup_id}: {verification.errors}"
        # Milvus cannot swap two names in one step: a swap cut short may leave neither until the next run ends it.
        at_once = self.state_of_target()
        assert at_once is not None or died in ("swapping", "cleaning"), f"the target is gone after dying in {died}"
        self.gone_for_a_while += at_once is None

        for backup_id in self.backups.values():
            assert await self.manager.get_backup(backup_id), f"an older backup is gone after dying in {died}"
        if self.job["operation"] == "copy":
            await self._copy_again(died)
        # What a dead backup had finished: all of it but the chunk that was open is gone on with.
        files = [path for path in left(self.place) if path.startswith(f"{self.name}/") and path.endswith(".parquet")]

        # The next run is of another kind than the dead one, as often as not.
        again = await self.manager.create_backup(f"{self.name}_small")
        assert again.success, f"after dying in {died}: {again.error_message}"
        await self.manager.delete_backup(again.backup_id, f"{self.name}_small")
        if self.job["operation"] == "restore":
            await self._restore_again(died)
        again = await self.manager.create_backup(self.dead_collection, BackupParams(chunk_size_mb=1))
        assert again.success, f"after dying in {died}: {again.error_message}"
        if self.job["operation"] == "backup":
            adopted = (again.metadata.resumed or {"chunks": 0})["chunks"]
            assert len(files) - 1 <= adopted <= len(files), f"after dying in {died}: {files}"
            self.chunks["adopted"] += adopted
            self.chunks["read again"] += len(files) - adopted
        await self.manager.delete_backup(again.backup_id, self.dead_collection)
        assert left(self.place) == [], f"after dying in {died}"
        staging = [name for name in self.client.list_collections() if STAGING.match(name)]
        assert staging == [], f"after dying in {died}"
        assert self.state_of_target() in ("old", "new")
        assert self.client.list_aliases(self.target)["aliases"] == [f"{self.name}_alias"]
        for listed in await self.manager.list_backups(self.name):
            if listed.backup_id not in self.backups.values():
                await self.manager.delete_backup(listed.backup_id, self.name)
        assert {listed.backup_id for listed in await self.manager.list_backups()} == set(self.backups.values())

    async def _restore_again(self, died: str) -> None:
        """The same restore ends what was begun, and inserts no chunk again that was noted."""
        entries = [json.loads(self.place.read(path))["entry"] for path in self.place.files() if path[0] == "."]
        noted = sum(sum(entry.get("done", {}).values()) for entry in entries if entry["phase"] == "staging")
        params = RestoreParams(**self.job["params"])
        restored = await self.manager.restore_backup(self.job["backup"], self.job["collection"], params)
        assert restored.success, f"after dying in {died}: {restored.error_message}"
        resumed = restored.verification_details.get("resumed_rows", 0)
        assert (resumed > 0) == (noted > 0), f"after dying in {died}: {noted} chunks were noted, {resumed} rows kept"
        self.chunks["inserted before"] += noted

    async def _copy_again(self, died: str) -> None:
        """The copies hold the whole backup or none, and the same call ends what was begun."""
        async with BackupManager.connect(None, str(self.copies)) as copies:
            for listed in await copies.list_backups():
                verification = await copies.verify_backup(listed.backup_id)
                assert verification.success, f"the copy after dying in {died}: {verification.errors}"
            await self.manager.copy_backup(self.job["backup"], self.name, to=self.copies)
            (whole,) = await copies.list_backups()
            assert (await copies.verify_backup(whole.backup_id)).success
            await copies.delete_backup(whole.backup_id)
        assert left(Disk(self.copies)) == []


async def killing(scene: Scene, kills: int, moments: list[str], capsys) -> Counter[str]:
    """Kills so often, by turns at each moment; prints the histogram."""
    rng = random.Random(SEED)
    histogram: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    swept: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    while sum(histogram.values()) < kills and sum(survived.values()) < 2 * kills:
        # The moment that has had the fewest so far.
        moment = min(moments, key=lambda one: (histogram[one], moments.index(one)))
        died = await scene.kill(moment, rng)
        if died is None:
            survived[moment] += 1
        else:
            operation = MOMENTS[moment][0]
            # It may have got further than it was meant to: count it where it died.
            actual = next((one for one in moments if MOMENTS[one][0] == operation and died in MOMENTS[one][1]), moment)
            histogram[actual] += 1
            phases[f"{operation}: {died}"] += 1
            swept[actual] += bool(left(scene.place))
        await scene.check(died or "nothing (it had finished)")
    with capsys.disabled():
        print(f"\n{sum(histogram.values())} kills, seed {SEED}: how many, how many left something to be swept")
        for moment in moments:
            late = f"({survived[moment]} more came too late)" if survived[moment] else ""
            print(f"  {moment:<20} {histogram[moment]:>3} {swept[moment]:>3}  {'#' * histogram[moment]} {late}")
        print(f"  {scene.gone_for_a_while} swaps cut between two names, ended by the next run")
        print(f"  chunks that the dead had finished: {scene.chunks}")
        print("  by phase: " + ", ".join(f"{phase} {times}" for phase, times in sorted(phases.items())))
    return histogram


async def test_killed_processes_leave_whole_backups_and_whole_collections(
    lite_tcp, connect, name, root, tmp_path, capsys
):
    kills, at_least = (118, 10) if SOAK else (12, 1)
    async with connect(lite_tcp) as manager:
        scene = Scene(lite_tcp.uri, Disk(root), tmp_path / "copies", name, *SIZE)
        await scene.prepare(manager)
        histogram = await killing(scene, kills, list(MOMENTS), capsys)
    assert sum(histogram.values()) >= kills
    assert min(histogram[moment] for moment in MOMENTS) >= at_least


@pytest.mark.s3
async def test_killed_processes_on_s3(lite_tcp, connect, name, bucket, s3_server, tmp_path, capsys):
    kills, at_least = (64, 5) if SOAK else (9, 1)
    async with connect(lite_tcp, root=f"s3://{bucket}") as manager:
        place = Bucket(s3_server.client(), bucket)
        scene = Scene(lite_tcp.uri, place, tmp_path / "copies", name, *SIZE)
        await scene.prepare(manager)
        histogram = await killing(scene, kills, list(MOMENTS), capsys)
    assert sum(histogram.values()) >= kills
    assert min(histogram[moment] for moment in MOMENTS) >= at_least


@pytest.mark.server
async def test_killed_restores_on_a_milvus_server(server, connect, name, root, tmp_path, capsys):
    kills, at_least = (18, 5) if SOAK else (3, 1)
    moments = [moment for moment in MOMENTS if moment.startswith("restore")]
    async with connect(server) as manager:
        scene = Scene(server.uri, Disk(root), tmp_path / "copies", name, 4_000, 32)
        await scene.prepare(manager)
        histogram = await killing(scene, kills, moments, capsys)
    assert min(histogram[moment] for moment in moments) >= at_least


async def test_a_run_that_follows_a_dead_one_at_once_is_not_kept_waiting(lite_tcp, connect, name, root):
    # The lock names this host and a pid that is gone: there is nobody to wait for.
    create(lite_tcp.client, name, plain(5_000, dim=256))
    job = {"operation": "backup", "uri": lite_tcp.uri, "root": str(root), "collection": name}
    code, said = run_child(job | {"kill": {"phases": ["reading"], "delay": 0.05}})
    assert (code, said["died_in"]) == (-9, "reading")
    assert leftovers(root), "it died too early to leave anything"
    async with connect(lite_tcp) as manager:
        assert await manager.list_backups() == []
        made = await manager.create_backup(name)
        assert made.success, made.error_message
        assert made.execution_time_seconds < 10
        restored = await manager.restore_backup(
            made.backup_id, name, RestoreParams(target_collection_name=f"{name}_copy")
        )
        assert restored.success, restored.error_message
    assert leftovers(root) == []
