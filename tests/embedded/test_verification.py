"""QUICK verification, what the switches of CHECKSUM and QUICK do, and what is remembered of an outcome."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from milvault import (
    BackupManager,
    BackupNotFoundError,
    BackupParams,
    BackupRecoveryConfig,
    InvalidArgumentError,
    VerificationParams,
)
from tests.backup_files import data_files
from tests.manifests import reseal
from tests.recipes import create, create_large, partitioned, plain

FILES, ROWS = 12, 250


def quick(percent: float = 100, **changes) -> VerificationParams:
    return VerificationParams(**{"verification_type": "QUICK", "sample_size": percent, "seed": 7, **changes})


@dataclass
class Made:
    """A copy of a backup, which a test may damage."""

    backup_id: str
    storage_path: str


@pytest.fixture(scope="module")
def originals(lite_server, tmp_path_factory) -> Path:
    """A repository with two unverified backups: `large`, a dozen files of one row group each, and `small`."""
    root = tmp_path_factory.mktemp("originals")
    client = MilvusClient(lite_server.uri)
    create_large(lite_server.uri, "large", FILES * ROWS, 1024)
    create(client, "small", partitioned())
    config = BackupRecoveryConfig(auto_verify_after_backup=False, default_chunk_size_mb=1)

    async def make() -> None:
        async with BackupManager.connect(lite_server.uri, root, config=config) as manager:
            for collection in ("large", "small"):
                made = await manager.create_backup(collection, BackupParams(backup_name=collection))
                assert made.success, made.error_message

    asyncio.run(make())
    for collection in ("large", "small"):
        client.drop_collection(collection)
    return root


def copied(originals: Path, root: Path, collection: str) -> Made:
    shutil.copytree(originals / collection, root / collection)
    (folder,) = (root / collection).iterdir()
    return Made(folder.name, str(folder))


@pytest.fixture
def backup(originals, root) -> Made:
    made = copied(originals, root, "large")
    assert len(data_files(made.storage_path)) == FILES
    return made


@pytest.fixture
def small(originals, root) -> Made:
    return copied(originals, root, "small")


def flip(file: Path, at: float = 0.5) -> str:
    """Damages a page, without changing the file's length; the file's name in the backup."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * at)] ^= 0x10
    file.write_bytes(content)
    return f"data/{file.name}"


async def test_a_sample_is_decoded_and_remembered(backup, connect):
    async with connect(None) as manager:
        result = await manager.verify_backup(backup.backup_id, params=quick(10))
        assert result.success, result.errors
        assert result.verification_type.value == "QUICK"
        assert result.checksum_valid is None
        assert result.files_verified == FILES + 5
        assert result.details["row_groups"] == FILES
        assert result.details["row_groups_checked"] == 2
        assert 0 < result.details["rows_checked"] < FILES * ROWS
        assert (result.details["sample_size"], result.details["seed"]) == (10, 7)
        everything = await manager.verify_backup(backup.backup_id, params=quick())
        assert everything.details["rows_checked"] == FILES * ROWS
        least = await manager.verify_backup(backup.backup_id, params=quick(0.001, seed=None))
        assert least.details["row_groups_checked"] == 1
        found = await manager.get_backup(backup.backup_id)
        assert found.is_verified
        assert found.last_verified_at == least.verified_at
        assert set(found.verifications) == {"QUICK"}


async def test_damage_is_found_where_the_sample_falls_on_it(backup, connect):
    damaged = flip(data_files(backup.storage_path)[5])
    async with connect(None) as manager:
        everything = await manager.verify_backup(backup.backup_id, params=quick())
        assert not everything.success
        assert everything.files_failed == [damaged]
        assert damaged in everything.errors[0]
        outcomes = {}
        for seed in range(12):
            result = await manager.verify_backup(backup.backup_id, params=quick(10, seed=seed))
            again = await manager.verify_backup(backup.backup_id, params=quick(10, seed=seed))
            assert result.files_failed == again.files_failed
            outcomes[seed] = result.success
        assert set(outcomes.values()) == {True, False}
        assert not (await manager.verify_backup(backup.backup_id, params=quick(10, fail_fast=True, seed=99))).errors[1:]


async def test_all_damage_is_found_where_asked_for(backup, connect):
    files = data_files(backup.storage_path)
    wanted = {flip(files[1]), flip(files[8])}
    files[3].write_bytes(files[3].read_bytes()[:-1])
    files[4].unlink()
    wanted |= {f"data/{files[3].name}", f"data/{files[4].name}"}
    async with connect(None) as manager:
        result = await manager.verify_backup(backup.backup_id, params=quick(fail_fast=False))
        assert set(result.files_failed) == wanted
        assert len(result.errors) == 4
        first = await manager.verify_backup(backup.backup_id, params=quick())
        assert set(first.files_failed) < wanted


async def test_a_damaged_footer_is_found_without_a_sample_falling_on_it(backup, connect):
    damaged = [flip(file, 0.9999) for file in data_files(backup.storage_path)[2:5]]
    async with connect(None) as manager:
        result = await manager.verify_backup(backup.backup_id, params=quick(0.001, fail_fast=False))
        assert result.files_failed == damaged


async def test_damage_is_not_forgotten_when_a_sample_misses_it(backup, connect):
    flip(data_files(backup.storage_path)[5])
    async with connect(None) as manager:
        assert not (await manager.verify_backup(backup.backup_id)).success
        results = [await manager.verify_backup(backup.backup_id, params=quick(10, seed=seed)) for seed in range(6)]
        assert any(result.success for result in results)
        assert not (await manager.get_backup(backup.backup_id)).is_verified
        flip(data_files(backup.storage_path)[5])
        assert (await manager.verify_backup(backup.backup_id)).success
        assert (await manager.get_backup(backup.backup_id)).is_verified


async def test_an_empty_backup_is_whole(lite, connect, name):
    create(lite.client, name, plain(0))
    async with connect(lite) as manager:
        made = await manager.create_backup(name)
        result = await manager.verify_backup(made.backup_id, params=quick(10))
    assert result.success
    assert result.details["row_groups"] == 0


CONTRADICTIONS = {
    "verify_schema": (
        lambda manifest: manifest["schema_snapshot"]["fields"][0].update(description="another"),
        "schema.json",
    ),
    "verify_data_integrity": (
        lambda manifest: next(iter(manifest["digest"]["partitions"].values())).update(digest="0" * 32),
        "chunks.json",
    ),
    "deep_verify_row_count": (lambda manifest: manifest.update(row_count=manifest["row_count"] + 1), "chunks.json"),
}


@pytest.mark.parametrize("switch", CONTRADICTIONS)
@pytest.mark.parametrize("kind", ["CHECKSUM", "QUICK"])
async def test_each_switch_looks_at_what_it_says(small, connect, switch, kind):
    change, file = CONTRADICTIONS[switch]
    reseal(Path(small.storage_path), change)
    async with connect(None) as manager:
        params = VerificationParams(verification_type=kind, sample_size=100)
        result = await manager.verify_backup(small.backup_id, params=params)
        assert not result.success
        assert result.files_failed == [file]
        assert not (await manager.get_backup(small.backup_id)).is_verified
        off = params.model_copy(update={switch: False})
        result = await manager.verify_backup(small.backup_id, params=off)
        assert result.success, result.errors


@pytest.mark.parametrize("kind", ["CHECKSUM", "QUICK"])
async def test_without_checksums_lengths_are_all_that_is_known_of_files(small, connect, kind):
    index = Path(small.storage_path, "indexes/vector.json")
    content = index.read_text()
    index.write_text(content[:-2] + "\n" + content[-1])  # another white space: as long, and means the same
    async with connect(None) as manager:
        params = VerificationParams(verification_type=kind, verify_schema=False)
        result = await manager.verify_backup(small.backup_id, params=params)
        assert result.files_failed == ["indexes/vector.json"]
        assert result.checksum_valid is False
        off = await manager.verify_backup(small.backup_id, params=params.model_copy(update={"verify_checksums": False}))
        assert off.success
        assert off.checksum_valid is None


@pytest.mark.parametrize(("kind", "switch"), [("CHECKSUM", "verify_checksums"), ("QUICK", "verify_data_integrity")])
async def test_what_leaves_its_proof_out_warns_and_proves_nothing(small, connect, kind, switch):
    async with connect(None) as manager:
        params = VerificationParams(verification_type=kind, **{switch: False})
        result = await manager.verify_backup(small.backup_id, params=params)
        assert result.success
        assert switch in result.warnings[0]
        assert not (await manager.get_backup(small.backup_id)).is_verified
        assert not Path(small.storage_path, "verification.json").exists()


async def test_outcomes_of_each_type_are_kept_side_by_side(small, connect):
    async with connect(None) as manager:
        first = await manager.verify_backup(small.backup_id)
        last = await manager.verify_backup(small.backup_id, params=quick())
        found = await manager.get_backup(small.backup_id)
    noted = json.loads(Path(small.storage_path, "verification.json").read_text())
    assert noted["verification_type"] == "QUICK"
    assert set(noted["by_type"]) == {"CHECKSUM", "QUICK"} == set(found.verifications)
    assert all(entry["success"] is True for entry in noted["by_type"].values())
    assert found.last_verified_at == last.verified_at > first.verified_at


async def test_garbage_in_the_place_of_the_last_outcome_is_replaced(small, connect):
    path = Path(small.storage_path, "verification.json")
    async with connect(None) as manager:
        for garbage in (b"", b"[]", b'{"by_type": 7}', b"\xff" * 100, b"[" * 5_000_000):
            path.write_bytes(garbage)
            assert not (await manager.get_backup(small.backup_id)).is_verified
            assert (await manager.verify_backup(small.backup_id, params=quick())).success
            assert (await manager.get_backup(small.backup_id)).is_verified


@pytest.mark.parametrize("kind", ["CHECKSUM", "QUICK"])
async def test_no_mark_of_a_reader_is_left(small, connect, root, kind):
    async with connect(None) as manager:
        await manager.verify_backup(small.backup_id, params=VerificationParams(verification_type=kind))
        with pytest.raises(BackupNotFoundError):
            await manager.verify_backup("nothing", params=VerificationParams(verification_type=kind))
    assert not list(root.rglob(".readers"))


async def test_a_sample_that_is_none_is_refused(small, connect):
    async with connect(None) as manager:
        wrong = VerificationParams.model_construct(**{**quick().model_dump(), "sample_size": 0})
        wrong = wrong.model_copy(update={"verification_type": quick().verification_type})
        with pytest.raises(InvalidArgumentError, match="sample_size"):
            await manager.verify_backup(small.backup_id, params=wrong)
