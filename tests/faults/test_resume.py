"""A backup or a restore that was stopped is gone on with: what it had finished is not done again, and it says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from milvault import BackupParams, RestoreParams, VerificationParams, VerificationType
from tests.backup_files import leftovers, rows_of
from tests.faults.processes import run_child
from tests.faults.proxy import proxy_to, refuse
from tests.recipes import Recipe, create, expected, plain, read_all, vector_of

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

# Chunks of a MiB, at a pace that leaves time to count them: what matters comes to the same at any pace.
DEEP = VerificationParams(verification_type=VerificationType.DEEP)
PARAMS: dict[str, Any] = {"chunk_size_mb": 1}
SLOWLY = PARAMS | {"bandwidth_limit_mib": 8}


def die_after(chunks: int, uri: str, root: Path, collection: str, **params: Any) -> set[str]:
    """Lets a backup die once so many chunks are noted; the data files that it had finished."""
    job = {"operation": "backup", "uri": uri, "root": str(root), "collection": collection, "params": SLOWLY | params}
    pattern = f"{root}/{collection}/.unfinished/*/*.json"
    code, said = run_child(job | {"kill": {"phases": ["reading"], "delay": 0, "needs": pattern, "count": chunks}})
    assert (code, said.get("died_in")) == (-9, "reading"), said
    return finished(root, collection)


def finished(root: Path, collection: str) -> set[str]:
    """Data files of backups that are not whole."""
    files = (root / collection).glob("b*/data/*.parquet")
    return {str(path.relative_to(root)) for path in files if not (path.parents[1] / "metadata.json").exists()}


async def test_a_killed_backup_is_gone_on_with(lite_tcp, connect, name, root):
    recipe = plain(4_000, dim=256)
    create(lite_tcp.client, name, recipe)
    before = die_after(3, lite_tcp.uri, root, name)
    async with connect(lite_tcp) as manager:
        assert await manager.list_backups() == []
        made = await manager.create_backup(name, BackupParams(**PARAMS))
        made.raise_for_error()
        resumed = made.metadata.resumed
        # One piece is read at a time, so one chunk at most is read twice.
        assert len(before) - 1 <= resumed["chunks"] <= len(before)
        assert resumed["chunks"] >= 3
        assert made.metadata.segment_count > resumed["chunks"]
        assert made.metadata.to_dict()["snapshot"]["kind"] == "fuzzy"
        assert any("at two times" in warning for warning in made.warnings)
        assert made.verification.success
        assert rows_of(made.storage_path, recipe) == expected(recipe)
        again = await manager.verify_backup(made.backup_id, name, DEEP)
        assert again.success, again.errors
    assert leftovers(root) == []


async def test_adopted_chunks_are_not_read_again(lite_tcp, connect, name, root):
    # The witness: rows that change between the two runs are in the backup as they were.
    recipe = plain(4_000, dim=256)
    create(lite_tcp.client, name, recipe)
    die_after(3, lite_tcp.uri, root, name)
    first, last = recipe.rows[0], recipe.rows[-1]
    changed = [row | {"vector": vector_of(row["id"] + 7, 256)} for row in (first, last)]
    lite_tcp.client.upsert(name, changed)
    async with connect(lite_tcp) as manager:
        made = await manager.create_backup(name, BackupParams(**PARAMS))
        made.raise_for_error()
        rows = rows_of(made.storage_path, recipe)
        now = expected(Recipe(recipe.fields, changed))
        assert rows[first["id"]] == expected(recipe)[first["id"]] != now[first["id"]]
        assert rows[last["id"]] == now[last["id"]]
        # A second read tells, and where nothing has changed it proves that.
        die_after(3, lite_tcp.uri, root, name)
        lite_tcp.client.upsert(name, [first])
        made = await manager.create_backup(name, BackupParams(**PARAMS, prove_stable=True))
        assert made.metadata.resumed["chunks"] >= 3
        assert made.metadata.to_dict()["snapshot"]["kind"] == "fuzzy"
        die_after(3, lite_tcp.uri, root, name)
        made = await manager.create_backup(name, BackupParams(**PARAMS, prove_stable=True))
        assert made.metadata.resumed["chunks"] >= 3
        assert made.metadata.to_dict()["snapshot"]["kind"] == "stable"
        assert not any("at two times" in warning for warning in made.warnings)


@pytest.mark.parametrize("change", ["resume", "chunk_size_mb", "compression_level", "collection"])
async def test_what_is_not_the_same_begins_anew(lite_tcp, connect, name, root, change):
    recipe = plain(3_000, dim=256)
    create(lite_tcp.client, name, recipe)
    die_after(1, lite_tcp.uri, root, name)
    params = PARAMS | {"resume": {"resume": False}, "chunk_size_mb": {"chunk_size_mb": 2},
                       "compression_level": {"compression_level": 3}}.get(change, {})  # fmt: skip
    if change == "collection":
        lite_tcp.client.drop_collection(name)
        recipe = plain(3_000, dim=257)
        create(lite_tcp.client, name, recipe)
    async with connect(lite_tcp) as manager:
        made = await manager.create_backup(name, BackupParams(**params))
        made.raise_for_error()
        assert made.metadata.resumed is None
        assert rows_of(made.storage_path, recipe) == expected(recipe)
    assert leftovers(root) == []


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "note"])
async def test_a_finished_chunk_that_was_damaged_is_read_again(lite_tcp, connect, name, root, damage):
    recipe = plain(4_000, dim=256)
    create(lite_tcp.client, name, recipe)
    before = die_after(3, lite_tcp.uri, root, name)
    victim = next((root / name).glob("b*/data/*-00001.parquet"))
    content = bytearray(victim.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif damage == "cut":
        victim.write_bytes(content[:-1])
    elif damage == "gone":
        victim.unlink()
    else:
        note = next((root / name).glob(".unfinished/b*/00001.json"))
        digest = json.loads(note.read_text())["chunks"][0]["chunk"]["digest"]
        other = ("0" if digest[0] != "0" else "1") + digest[1:]
        note.write_text(note.read_text().replace(digest, other))
    async with connect(lite_tcp) as manager:
        made = await manager.create_backup(name, BackupParams(**PARAMS))
        made.raise_for_error()
        assert len(before) - 2 <= made.metadata.resumed["chunks"] <= len(before) - 1
        assert rows_of(made.storage_path, recipe) == expected(recipe)
        checked = await manager.verify_backup(made.backup_id, name, DEEP)
        assert checked.success, checked.errors
    assert leftovers(root) == []


async def test_rows_that_came_or_went_meanwhile_are_read_anew(lite_tcp, connect, name, root):
    recipe = plain(4_000, dim=256)
    create(lite_tcp.client, name, recipe)
    die_after(3, lite_tcp.uri, root, name)
    gone = recipe.rows[7]
    lite_tcp.client.delete(name, ids=[gone[recipe.key]])
    async with connect(lite_tcp) as manager:
        made = await manager.create_backup(name, BackupParams(**PARAMS))
        made.raise_for_error()
        # The server's counts do not fit what was adopted: nothing of it is in the backup.
        assert made.metadata.resumed is None
        kept = {key: row for key, row in expected(recipe).items() if key != gone[recipe.key]}
        assert rows_of(made.storage_path, recipe) == kept
        assert made.verification.success
    assert leftovers(root) == []


async def test_a_backup_that_is_killed_time_and_again_gets_there(lite_tcp, connect, name, root):
    recipe = plain(6_000, dim=256)
    create(lite_tcp.client, name, recipe)
    reached = [len(die_after(2, lite_tcp.uri, root, name))]
    # The chunks that are adopted are noted together: one more note is one more chunk.
    reached += [len(die_after(2, lite_tcp.uri, root, name)) for _ in range(2)]
    assert reached == sorted(set(reached)), reached
    async with connect(lite_tcp) as manager:
        made = await manager.create_backup(name, BackupParams(**PARAMS))
        made.raise_for_error()
        assert made.metadata.resumed["chunks"] >= reached[-1] - 1
        assert rows_of(made.storage_path, recipe) == expected(recipe)
    assert leftovers(root) == []


async def test_a_backup_whose_server_went_away_is_gone_on_with(lite_tcp, connect, name, root):
    recipe = plain(3_000, dim=256)
    create(lite_tcp.client, name, recipe)
    with proxy_to(lite_tcp.uri) as proxy:
        async with connect(proxy.uri, max_retries=1) as manager:
            # All rows have come when the server goes: it counts no more.
            gone = proxy.add("Query", refuse(), when=lambda request: b"count(*)" in request, skip=2, times=None)
            failed = await manager.create_backup(name, BackupParams(**PARAMS))
            assert not failed.success
            assert "goes on from them" in failed.error_message
            assert gone.struck
            assert await manager.list_backups() == []
            assert leftovers(root)
            assert ".lock.json" not in "".join(leftovers(root))
            proxy.faults.clear()
            made = await manager.create_backup(name, BackupParams(**PARAMS))
            made.raise_for_error()
            assert made.metadata.resumed["chunks"] >= made.metadata.segment_count - 1
            assert rows_of(made.storage_path, recipe) == expected(recipe)
    assert leftovers(root) == []


async def test_an_unfinished_backup_outlives_what_is_done_in_between(lite_tcp, connect, name, root):
    recipe = plain(3_000, dim=256)
    create(lite_tcp.client, name, recipe)
    async with connect(lite_tcp) as manager:
        older = await manager.create_backup(name, BackupParams(**PARAMS))
        before = die_after(2, lite_tcp.uri, root, name)
        restored = await manager.restore_backup(
            older.backup_id, name, RestoreParams(target_collection_name=f"{name}_r")
        )
        restored.raise_for_error()
        await manager.delete_backup(older.backup_id, name)
        made = await manager.create_backup(name, BackupParams(**PARAMS))
        assert made.metadata.resumed["chunks"] >= len(before) - 1 > 0
    assert leftovers(root) == []


async def die_restoring(milvus: Any, root: Path, backup: str, collection: str, target: str) -> str:
    """Lets a restore die with at least one chunk in, and another half in; its staging collection."""
    params = {"target_collection_name": target, "bandwidth_limit_mib": 8}
    job = {"operation": "restore", "uri": milvus.uri, "root": str(root), "collection": collection, "backup": backup}
    kill = {"phases": ["inserting"], "delay": 0, "rows": 1_500}
    code, said = run_child(job | {"params": params, "kill": kill})
    assert (code, said.get("died_in")) == (-9, "inserting"), said
    (journal,) = (root / ".restores").glob("*.json")
    entry = json.loads(journal.read_text())["entry"]
    assert entry["done"]["_default"] >= 1, entry
    return entry["staging"]


@pytest.mark.parametrize("milvus", ["lite_tcp", pytest.param("server", marks=pytest.mark.server)])
async def test_a_killed_restore_is_gone_on_with(request, milvus, connect, name, root):
    milvus = request.getfixturevalue(milvus)
    recipe = plain(3_000, dim=256)
    create(milvus.client, name, recipe)
    target = f"{name}_r"
    params = RestoreParams(target_collection_name=target, load_after_restore=True)
    async with connect(milvus) as manager:
        backup = (await manager.create_backup(name, BackupParams(**PARAMS))).backup_id
        staging = await die_restoring(milvus, root, backup, name, target)
        assert staging in milvus.client.list_collections()
        # What others do in between leaves it alone.
        (await manager.create_backup(name, BackupParams(**PARAMS))).raise_for_error()
        assert staging in milvus.client.list_collections()
        restored = await manager.restore_backup(backup, name, params)
        restored.raise_for_error()
        assert 750 <= restored.verification_details["resumed_rows"] < 3_000
        assert restored.verification_details["digest"] == restored.verification_details["expected_digest"]
    assert read_all(milvus.client, target) == expected(recipe)
    assert staging not in milvus.client.list_collections()
    assert leftovers(root) == []


async def test_a_staging_collection_that_does_not_prove_is_built_anew(lite_tcp, connect, name, root):
    recipe = plain(3_000, dim=256)
    create(lite_tcp.client, name, recipe)
    target = f"{name}_r"
    async with connect(lite_tcp) as manager:
        backup = (await manager.create_backup(name, BackupParams(**PARAMS))).backup_id
        staging = await die_restoring(lite_tcp, root, backup, name, target)
        lite_tcp.client.delete(staging, ids=[recipe.rows[5]["id"]])
        params = RestoreParams(target_collection_name=target, load_after_restore=True)
        restored = await manager.restore_backup(backup, name, params)
        restored.raise_for_error()
        assert "resumed_rows" not in restored.verification_details
    assert read_all(lite_tcp.client, target) == expected(recipe)
    assert leftovers(root) == []


async def test_another_restore_into_the_same_target_begins_anew(lite_tcp, connect, name, root):
    recipe = plain(3_000, dim=256)
    create(lite_tcp.client, name, recipe)
    target = f"{name}_r"
    async with connect(lite_tcp) as manager:
        backup = (await manager.create_backup(name, BackupParams(**PARAMS))).backup_id
        staging = await die_restoring(lite_tcp, root, backup, name, target)
        where = RestoreParams(target_collection_name=target, load_after_restore=True, where="id < 100")
        restored = await manager.restore_backup(backup, name, where)
        restored.raise_for_error()
        assert "resumed_rows" not in restored.verification_details
    assert len(read_all(lite_tcp.client, target)) == 100
    assert staging not in lite_tcp.client.list_collections()
    assert leftovers(root) == []
