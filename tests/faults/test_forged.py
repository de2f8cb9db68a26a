"""Repositories that an attacker wrote: nothing outside them changes, nothing large is allocated, errors are typed.

The forger knows the format: manifests carry their own checksum, and lists of files agree with them.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milvault import BackupManager, BackupNotFoundError, BackupRecoveryError, VerificationParams
from tests.conftest import files_under
from tests.faults.processes import REPOSITORY
from tests.manifests import manifest, put, sealed

pytestmark = pytest.mark.faults

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
ALL_GO = {"retention_count": 0, "retention_days": 0, "min_backups_to_keep": 0}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What nobody may touch."""
    folder = tmp_path / "outside"
    (folder / "data").mkdir(parents=True)
    for name in ("metadata.json", "data/p-00000.parquet", "precious.txt", ".lock.json"):
        (folder / name).write_text(f"precious: {name}")
    return folder


async def everything(root: Path, backup_id: str) -> dict[str, Any]:
    """All that can be asked of a repository without a server; each outcome, or a typed error."""
    outcomes: dict[str, Any] = {}
    async with BackupManager.connect(None, root) as manager:

        async def attempt(name: str, make: Callable[[], Any]) -> None:
            try:
                outcomes[name] = await make()
            except BackupRecoveryError as error:
                outcomes[name] = error

        await attempt("list", manager.list_backups)
        await attempt("get", lambda: manager.get_backup(backup_id))
        await attempt("verify", lambda: manager.verify_backup(backup_id))
        quick = VerificationParams(verification_type="QUICK", sample_size=100, fail_fast=False)
        await attempt("quick", lambda: manager.verify_backup(backup_id, params=quick))
        await attempt("due", manager.verify_due)
        await attempt("plan", lambda: manager.apply_retention_policy(dry_run=True, **ALL_GO))
        await attempt("prune", lambda: manager.apply_retention_policy(**ALL_GO))
        await attempt("delete", lambda: manager.delete_backup(backup_id))
        await attempt("list again", manager.list_backups)
    return outcomes


WRONG_MANIFESTS: dict[str, dict[str, Any]] = {
    "collection above": {"collection_name": "../outside"},
    "collection absolute": {"collection_name": "/etc"},
    "collection with NUL": {"collection_name": "articles\x00"},
    "database above": {"database": ".."},
    "another collection": {"collection_name": "films"},
    "id above": {"backup_id": "../../outside"},
    "another id": {"backup_id": "b20260101T000000Z_ffffff"},
    "name with NUL": {"backup_name": "a\x00b"},
    "name with slash": {"backup_name": "../../outside"},
    "partition above": {"partition_names": ["../../outside"]},
    "partition in the digest": {"digest": {"algorithm": "x", "partitions": {"../x": {"rows": 1, "digest": "0" * 32}}}},
    "parent above": {"parent": "../../outside"},
    "year 12026": {"created_at": "+12026-01-01T00:00:00Z"},
    "year 0": {"created_at": "0000-01-01T00:00:00Z"},
    "negative rows": {"row_count": -1},
    "too many rows": {"row_count": 2**64},
    "schema no object": {"schema_snapshot": "x" * 1000},
    "tags no list": {"tags": {"a": 1}},
    "unknown state": {"state": "WHATEVER"},
    "newer": {"metadata_version": 99},
}


@pytest.mark.parametrize("wrong", WRONG_MANIFESTS)
async def test_a_forged_manifest_is_damage_that_is_told_and_left_alone_but_can_be_deleted(root, outside, wrong):
    good = put(root, manifest(NOW, 1, "articles"), verified=True)
    forged = put(root, manifest(NOW, 2, "articles"))
    (forged / "metadata.json").write_bytes(sealed({**manifest(NOW, 2, "articles"), **WRONG_MANIFESTS[wrong]}))
    before = files_under(outside)
    found = await everything(root, forged.name)
    assert [backup.backup_id for backup in found["list"]] == [good.name]
    (damaged,) = found["list"].damaged
    assert (damaged.backup_id, damaged.storage_path) == (forged.name, str(forged))
    assert "metadata.json" in damaged.reason
    assert found["get"].kind == "backup_corrupted"
    assert not found["verify"].success
    assert not found["quick"].success
    assert forged.name in found["plan"]["left_alone"]
    assert forged.name in found["prune"]["left_alone"]
    assert found["prune"]["deleted_backup_ids"] == []
    assert found["delete"] is True
    assert not forged.exists()
    assert [backup.backup_id for backup in found["list again"]] == [good.name]
    assert files_under(outside) == before


ODD_MANIFESTS: dict[str, dict[str, Any]] = {
    "numbers as large as they get": {
        "row_count": 2**64 - 1,
        "size_bytes": 2**64 - 1,
        "compressed_size_bytes": 2**64 - 1,
        "segment_count": 2**64 - 1,
        "compression_level": -(2**31),
    },
    "from the year 9999": {"created_at": "9999-12-31T23:59:59.999999Z"},
    "from the year 1": {"created_at": "0001-01-01T00:00:00Z"},
    "its own parent": {"parent": "b20260101T000000Z_000002"},
    "markup": {"backup_name": "<script>[red]x", "tags": ["\u202e", "\x1b[31m", "'; DROP TABLE"]},
    "a hundred thousand tags": {"tags": [f"tag {number}" for number in range(100_000)]},
}


@pytest.mark.parametrize("odd", ODD_MANIFESTS)
async def test_an_odd_manifest_hides_no_other_backup(root, outside, odd):
    good = put(root, manifest(NOW, 1, "articles"), verified=True)
    forged = put(root, {**manifest(NOW, 2, "articles"), **ODD_MANIFESTS[odd]})
    before = files_under(outside)
    found = await everything(root, forged.name)
    assert {backup.backup_id for backup in found["list"]} == {good.name, forged.name}
    assert not found["verify"].success  # its files are not there
    if odd == "from the year 9999":
        assert "future" in found["prune"]["kept"][forged.name]
    else:
        assert found["prune"]["deleted_backup_ids"] == [forged.name]
    assert good.name in {backup.backup_id for backup in found["list again"]}
    assert files_under(outside) == before


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"null",
        b"[" * 100_000,
        b'{"success": true, "verified_at": 5}',
        b'{"success": true, "verified_at": "2026-01-01T00:00:00", "by_type": {"DEEP": 3}}',
        b'{"success": true, "verified_at": "+99999-01-01T00:00:00Z", "by_type": []}',
        b'{"success": true, "by_type": {"DEEP": {"verified_at": {"a": 1}, "success": true}}}',
    ],
)
async def test_a_forged_outcome_of_a_verification_hides_no_backup(root, garbage):
    folder = put(root, manifest(NOW, 1, "articles"))
    (folder / "verification.json").write_bytes(garbage)
    async with BackupManager.connect(None, root) as manager:
        assert len(await manager.list_backups()) == 1
        assert (await manager.get_backup(folder.name)).last_verified_at is None
        assert len(await manager.verify_due()) == 1
        await manager.apply_retention_policy(dry_run=True)


def link_collection(root: Path, outside: Path, folder: Path) -> None:
    (outside / folder.name).mkdir()
    (outside / folder.name / "metadata.json").write_bytes((folder / "metadata.json").read_bytes())
    (root / "films").symlink_to(outside)


def link_backup(_: Path, outside: Path, folder: Path) -> None:
    (outside / "metadata.json").write_bytes((folder / "metadata.json").read_bytes())
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.symlink_to(outside)


def link_manifest(_: Path, outside: Path, folder: Path) -> None:
    (outside / "metadata.json").write_bytes((folder / "metadata.json").read_bytes())
    (folder / "metadata.json").unlink()
    (folder / "metadata.json").symlink_to(outside / "metadata.json")


def link_data(_: Path, outside: Path, folder: Path) -> None:
    (folder / "data").symlink_to(outside)


def link_files(_: Path, outside: Path, folder: Path) -> None:
    for name in ("precious.txt", "verification.json", "checksums.json"):
        (folder / name).symlink_to(outside / "precious.txt")


def link_readers(root: Path, outside: Path, _: Path) -> None:
    (root / "articles" / ".readers").symlink_to(outside)


def link_lock(root: Path, outside: Path, _: Path) -> None:
    (root / "articles" / ".lock.json").symlink_to(outside / ".lock.json")


@pytest.mark.parametrize(
    "forge", [link_collection, link_backup, link_manifest, link_data, link_files, link_readers, link_lock]
)
async def test_a_link_that_leads_out_is_not_followed(root, outside, forge):
    put(root, manifest(NOW, 1, "articles"), verified=True)
    forged = put(root, manifest(NOW, 2, "articles"))
    forge(root, outside, forged)
    before = files_under(outside)
    found = await everything(root, forged.name)
    assert len(found["list"]) <= 2
    assert all(str(outside) not in backup.storage_path for backup in found["list"])
    if isinstance(found["verify"], BackupRecoveryError):
        assert isinstance(found["verify"], BackupNotFoundError) or found["verify"].kind == "storage"
    else:
        assert not found["verify"].success
    assert files_under(outside) == before


def files_of(folder: Path, files: dict[str, bytes], claims: dict[str, int] | None = None, **changes: Any) -> None:
    """Gives a backup files, with lists that agree; `claims` are the lengths that the list has instead."""
    sums = {}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        length = (claims or {}).get(name, len(content))
        sums[name] = {"bytes": length, "checksum": hashlib.sha256(content).hexdigest()}
    listed = json.dumps({"algorithm": "SHA256", "files": sums}).encode()
    (folder / "checksums.json").write_bytes(listed)
    values = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_bytes(
        sealed({**values, "checksum": hashlib.sha256(listed).hexdigest(), **changes})
    )


def chunk(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "file": f"data/p-{number:05}.parquet",
        "partition": "_default",
        "rows": 1,
        "bytes": 1,
        "file_bytes": 8,
        "lowest": 1,
        "highest": 1,
        "digest": "0" * 32,
        **changes,
    }


def huge_manifest(folder: Path) -> None:
    with (folder / "metadata.json").open("r+b") as file:
        file.truncate(50 * 2**30)


def huge_list(folder: Path) -> None:
    with (folder / "checksums.json").open("wb") as file:
        file.truncate(50 * 2**30)


def huge_marker(folder: Path) -> None:
    marker = folder.parent / ".readers" / f"{folder.name}.0.json"
    marker.parent.mkdir()
    with marker.open("wb") as file:
        file.truncate(50 * 2**30)


def huge_verification(folder: Path) -> None:
    with (folder / "verification.json").open("wb") as file:
        file.truncate(50 * 2**30)


def huge_numbers(folder: Path) -> None:
    for rows in (2**63, 2**39):
        chunks = [chunk(number, rows=rows, bytes=rows, file_bytes=8) for number in range(100)]
        files = {entry["file"]: b"PAR1PAR1" for entry in chunks}
        files |= {"schema.json": b"{}", "chunks.json": json.dumps({"chunks": chunks}).encode()}
        files_of(folder, files, row_count=2**64 - 1)


def claimed_lengths(folder: Path) -> None:
    files = {"schema.json": b"{}", "chunks.json": b'{"chunks": []}', "data/p-00000.parquet": b"x"}
    files_of(folder, files, {"schema.json": 2**62, "chunks.json": 2**63, "data/p-00000.parquet": 2**64 - 1})


def footer_that_claims(folder: Path) -> None:
    footer = (2**31 - 1).to_bytes(4, "little") + b"PAR1"
    entry = chunk(0, file_bytes=len(footer) + 4)
    collection = {"name": "articles", "database": "default", "fields": [], "partitions": ["_default"]}
    files = {
        entry["file"]: b"PAR1" + footer,
        "schema.json": json.dumps(collection).encode(),
        "chunks.json": json.dumps({"chunks": [entry]}).encode(),
    }
    promised = {"algorithm": "xxh3-128", "partitions": {"_default": {"rows": 1, "digest": "0" * 32}}}
    files_of(folder, files, row_count=1, digest=promised, schema_snapshot=collection)


HUGE = [
    huge_manifest,
    huge_list,
    huge_marker,
    huge_verification,
    huge_numbers,
    claimed_lengths,
    footer_that_claims,
]


@pytest.mark.parametrize("forge", HUGE)
def test_nothing_large_is_allocated_whatever_is_claimed(root, outside, forge):
    # In a process of its own, which is not given more than it needs: an allocation of gigabytes would end it.
    folder = put(root, manifest(NOW, 2, "articles"))
    put(root, manifest(NOW, 1, "articles"), verified=True)
    forge(folder)
    before = files_under(outside)
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.test_forged", str(root), folder.name]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["peak_mib"] < 300, told
    assert told["verify"] is not True
    assert told["quick"] is not True
    assert files_under(outside) == before


def _alone(root: Path, backup_id: str) -> None:
    """The child of the test above."""
    found = asyncio.run(everything(root, backup_id))
    told = {
        name: getattr(found[name], "success", None) if not isinstance(found[name], Exception) else repr(found[name])
        for name in ("verify", "quick")
    }
    # Not getrusage, whose maximum begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({**told, "peak_mib": peak}))


if __name__ == "__main__":
    _alone(Path(sys.argv[1]), sys.argv[2])
