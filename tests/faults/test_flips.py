"""Five hundred single-byte flips, at least fifty in each kind of file: all are found, none restores silently."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from milvault import BackupCorruptedError, BackupParams, BackupRecoveryError, RestoreParams, VerificationParams
from tests.backup_files import data_files
from tests.recipes import Recipe, create, dynamic, expected, partitioned, read_all

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

FLIPS = 500
UNVERIFIED_RESTORES = 60


def kinds_of_files(backup: Path) -> dict[str, list[Path]]:
    """The backup's files by kind: those in one folder are of a kind, others each their own."""
    kinds = defaultdict(list)
    for file in sorted(path for path in backup.rglob("*") if path.is_file() and path.name != "verification.json"):
        parts = file.relative_to(backup).parts
        kinds[parts[0]].append(file)
    return kinds


class Flip:
    """One byte of a file, changed in one to eight bits while the block runs."""

    def __init__(self, rng: random.Random, file: Path) -> None:
        self.file = file
        self.original = file.read_bytes()
        self.at = rng.randrange(len(self.original))
        self.mask = rng.randrange(1, 256)

    def __enter__(self):
        changed = bytearray(self.original)
        changed[self.at] ^= self.mask
        self.file.write_bytes(changed)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.write_bytes(self.original)

    def __str__(self) -> str:
        return f"byte {self.at} of {self.file.name} xor {self.mask:#04x}"


@pytest.fixture
async def backup(lite, connect, name):
    base = partitioned(240)
    extra = dynamic(240).rows
    rows = [{**extra[at], **row} for at, row in enumerate(base.rows)]
    recipe = Recipe(base.fields, rows, dynamic=True, partition_of=base.partition_of)
    create(lite.client, name, recipe)
    async with connect(lite, auto_verify_after_backup=False) as manager:
        made = await manager.create_backup(name, BackupParams(chunk_size_mb=1))
    assert made.success, made.error_message
    assert len(data_files(made.storage_path)) >= 3
    lite.client.drop_collection(name)
    return made, recipe


async def test_every_flipped_byte_is_found_and_none_is_restored(lite, connect, name, backup, capsys):
    made, _ = backup
    rng = random.Random(20261121)
    kinds = kinds_of_files(Path(made.storage_path))
    found: Counter[str] = Counter()
    missed, restored = [], []
    async with connect(None) as reader, connect(lite) as manager:
        for number in range(FLIPS):
            kind = list(kinds)[number % len(kinds)]
            with Flip(rng, rng.choice(kinds[kind])) as flip:
                try:
                    result = await reader.verify_backup(made.backup_id, name, VerificationParams())
                    noticed = not result.success and result.files_failed
                except BackupCorruptedError:
                    noticed = True
                if noticed:
                    found[kind] += 1
                else:
                    missed.append(str(flip))
                try:
                    outcome = await manager.restore_backup(made.backup_id, name)
                    restored.append(f"{flip}: {outcome}")
                except BackupCorruptedError:
                    pass
        with capsys.disabled():
            print(f"\nflips found: {dict(found)}, {sum(found.values())} of {FLIPS}")
        assert missed == []
        assert restored == []
        assert min(found.values()) >= 50
        assert sum(found.values()) == FLIPS
        assert (await reader.verify_backup(made.backup_id, name)).success, "the flips were not undone"
    assert lite.client.list_collections() == []


async def test_without_verification_a_flip_is_refused_or_proven_harmless(lite, connect, name, backup, capsys):
    # Some bytes of a Parquet file carry no value (statistics, padding): then the rows are all right, and proven so.
    made, recipe = backup
    rng = random.Random(42)
    kinds = kinds_of_files(Path(made.storage_path))
    outcomes: Counter[str] = Counter()
    async with connect(lite) as manager:
        for number in range(UNVERIFIED_RESTORES):
            kind = list(kinds)[number % len(kinds)]
            with Flip(rng, rng.choice(kinds[kind])) as flip:
                try:
                    params = RestoreParams(verify_before_restore=False, load_after_restore=True)
                    result = await manager.restore_backup(made.backup_id, name, params)
                    result.raise_for_error()
                except BackupRecoveryError:
                    outcomes[f"{kind} refused"] += 1
                    assert not lite.client.has_collection(name), flip
                else:
                    outcomes[f"{kind} harmless"] += 1
                    assert result.verification_passed is True, flip
                    assert read_all(lite.client, name) == expected(recipe), flip
                    lite.client.drop_collection(name)
    with capsys.disabled():
        print(f"\nunverified restores of flipped backups: {dict(outcomes)}")
    assert lite.staging() == []
    assert not [outcome for outcome in outcomes if "harmless" in outcome and not outcome.startswith(("data", "index"))]
