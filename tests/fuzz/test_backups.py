"""Real backups whose files were changed, their checksums made right again: no crash, no hang, no wrong answer.

A changed backup is listed, looked at, verified and restored. Each call gives a typed error or an answer, in its time;
a restore that succeeds has given the very rows that were backed up.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from milvault import BackupMetadata, BackupRecoveryError, RestoreParams, VerificationParams
from tests.backup_files import data_files
from tests.conftest import SOAK, files_under
from tests.fuzz.mutate import json_value, repair, some_bytes
from tests.recipes import Recipe, create, dynamic, expected, partitioned, read_all

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600 if SOAK else 240)]

JSON_FILES = [
    "metadata.json",
    "checksums.json",
    "chunks.json",
    "schema.json",
    "indexes/vector.json",
    "verification.json",
]
NOBODY = "http://127.0.0.1:9"
SECONDS = 60.0
"""No call may take longer than this, however slow the machine."""


def rounds(small: int, full: int) -> int:
    return full if SOAK else small


@pytest.fixture
async def backup(lite, connect, name):
    """A backup of rows with every sort of key in them, and its recipe; the collection is gone."""
    base, extra = partitioned(60), dynamic(60).rows
    rows = [{**extra[at], **row} for at, row in enumerate(base.rows)]
    recipe = Recipe(base.fields, rows, dynamic=True, partition_of=base.partition_of)
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        made = await manager.create_backup(name)
        assert made.success, made.error_message
    lite.client.drop_collection(name)
    return made, recipe


class Changed:
    """A backup's folder, put back as it was at the end of each block."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.original = files_under(self.folder)

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder)
        for name, content in self.original.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)


async def answer(call: Any, seen: Counter[str]) -> Any:
    """A call's value, or None for a typed error; anything else fails."""
    try:
        value = await asyncio.wait_for(call, SECONDS)
        if getattr(value, "error", None) is not None:
            value.raise_for_error()
        return value
    except BackupRecoveryError as error:
        told = error
    # "internal" is what a panic becomes: a broken promise, whatever the input.
    assert told.kind != "internal", repr(told)
    assert told.message
    seen[told.kind] += 1
    return None


async def look_at(reader: Any, restorer: Any, made: Any, name: str, seen: Counter[str]) -> None:
    """Lists, gets, verifies and restores up to where a server would be needed."""
    for backup in await answer(reader.list_backups(), seen) or []:
        assert isinstance(backup, BackupMetadata)
        json.dumps(backup.to_dict())
        assert repr(backup)
        backup._repr_html_()
    found = await answer(reader.get_backup(made.backup_id), seen)
    if found is not None:
        assert found.backup_id == made.backup_id
    for fast in (True, False):
        verified = await answer(reader.verify_backup(made.backup_id, name, VerificationParams(fail_fast=fast)), seen)
        if verified is not None:
            assert verified.success == (not verified.errors) == (not verified.files_failed)
            seen["verified" if verified.success else "found damaged"] += 1
    for verify in (True, False):
        params = RestoreParams(verify_before_restore=verify, target_collection_name="target")
        assert await answer(restorer.restore_backup(made.backup_id, name, params), seen) is None


@pytest.mark.parametrize("file", JSON_FILES)
@pytest.mark.parametrize("repaired", [True, False], ids=["repaired", "as-it-is"])
async def test_a_changed_json_file_gives_a_typed_error_or_an_answer(connect, name, backup, file, repaired, caplog):
    made, _ = backup
    caplog.set_level(logging.CRITICAL, logger="milvault.core")
    rng, seen = random.Random(f"{file} {repaired}"), Counter()
    changed = Changed(made.storage_path)
    document = json.loads(changed.original[file])
    async with connect(None) as reader, connect(NOBODY, max_retries=0) as restorer:
        for number in range(rounds(12, 1500)):
            with changed as folder:
                if number % 3 == 2:
                    content = some_bytes(rng, changed.original[file])
                else:
                    content = json.dumps(json_value(rng, document), indent=2).encode()
                (folder / file).write_bytes(content)
                if repaired:
                    repair(folder)
                await look_at(reader, restorer, made, name, seen)
        # whatever came before, the backup itself is as good as ever
        assert (await reader.verify_backup(made.backup_id, name)).success
    assert seen, "nothing was told"
    assert "backup_corrupted" in seen or file == "verification.json", seen


async def test_a_changed_chunk_whose_checksums_are_right_never_restores_other_rows(lite, connect, name, backup, capsys):
    made, recipe = backup
    rng, seen = random.Random(4), Counter()
    changed = Changed(made.storage_path)
    async with connect(lite) as manager:
        for _ in range(rounds(20, 1000)):
            with changed as folder:
                file = rng.choice(data_files(folder))
                content = file.read_bytes()
                # The footer is where a reader is led astray, and it is small: half of the changes go there.
                footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
                if rng.random() < 0.5:
                    file.write_bytes(content[:footer] + some_bytes(rng, content[footer:]))
                else:
                    file.write_bytes(some_bytes(rng, content))
                repair(folder)
                assert await answer(manager.verify_backup(made.backup_id, name), seen) is not None
                params = RestoreParams(target_collection_name=name, load_after_restore=True)
                restored = await answer(manager.restore_backup(made.backup_id, name, params), seen)
                if restored is None:
                    assert not lite.client.has_collection(name)
                else:
                    seen["harmless"] += 1
                    assert read_all(lite.client, name) == expected(recipe)
                    lite.client.drop_collection(name)
                assert lite.staging() == []
    assert seen["backup_corrupted"] > 0
    with capsys.disabled():
        print(f"\nrestores of changed chunks: {dict(seen)}")


@pytest.mark.parametrize("file", ["schema.json", "chunks.json", "indexes/vector.json"])
async def test_a_changed_description_whose_checksums_are_right_never_restores_other_rows(
    lite, connect, name, backup, file
):
    made, recipe = backup
    rng, seen = random.Random(file), Counter()
    changed = Changed(made.storage_path)
    document = json.loads(changed.original[file])
    async with connect(lite) as manager:
        for _ in range(rounds(8, 300)):
            with changed as folder:
                (folder / file).write_text(json.dumps(json_value(rng, document)))
                repair(folder)
                params = RestoreParams(target_collection_name=name, load_after_restore=True)
                restored = await answer(manager.restore_backup(made.backup_id, name, params), seen)
                if restored is not None:
                    assert restored.rows_restored == len(recipe.rows)
                    assert read_all(lite.client, name) == expected(recipe)
                    lite.client.drop_collection(name)
                else:
                    assert not lite.client.has_collection(name)
                assert lite.staging() == []
    assert (await connect(None).verify_backup(made.backup_id, name)).success


async def test_changed_locks_and_journals_hold_nobody_up_for_good(lite_tcp, connect, name, root):
    # A real lock and a real journal, as they stand while a run is at work.
    create(lite_tcp.client, name, partitioned(60))
    async with connect(lite_tcp, bandwidth_limit_mib=0.002) as slow, connect(lite_tcp) as manager:
        backup = await manager.create_backup(name)
        running = asyncio.create_task(slow.create_backup(name, timeout=20))
        lock = root / name / ".lock.json"
        while not (lock.exists() and lock.stat().st_size):
            await asyncio.sleep(0.02)
        lock_content = lock.read_bytes()
        running.cancel()
        await asyncio.wait([running])
        running = asyncio.create_task(
            slow.restore_backup(
                backup.backup_id,
                name,
                RestoreParams(target_collection_name=f"{name}_copy", verify_before_restore=False),
                timeout=20,
            )
        )
        while not (found := [path for path in (root / ".restores").glob("*.json") if path.stat().st_size]):
            await asyncio.sleep(0.02)
        journal, journal_content = found[0], found[0].read_bytes()
        running.cancel()
        await asyncio.wait([running])

        rng, seen = random.Random(9), Counter()
        names = [f"{name}_{number}" for number in range(rounds(6, 60))]
        for other in names:
            create(lite_tcp.client, other, partitioned(3))
            folder = root / other
            folder.mkdir()
            (folder / ".lock.json").write_bytes(changed(rng, lock_content))
            journal.parent.mkdir(exist_ok=True)
            target = journal.name.replace(f"{name}_copy", other)
            journal.with_name(target).write_bytes(changed(rng, journal_content))
        before = set(lite_tcp.client.list_collections())
        await asyncio.gather(*(answer(manager.create_backup(other), seen) for other in names))
        # No journal, whatever it says, makes us drop or rename what no restore made.
        assert set(lite_tcp.client.list_collections()) == before
        assert (await manager.create_backup(name)).success
        assert set(seen) <= {"in_progress", "storage", "backup_corrupted", "restore_validation", "already_exists"}, seen


def changed(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.3:
        return some_bytes(rng, content)
    return json.dumps(json_value(rng, json.loads(content))).encode()
