"""`ChecksumCalculator` and `CompressionHandler`: on the real core, against Python's own."""

from __future__ import annotations

import asyncio
import gzip
import hashlib

import pytest

from milvault import (
    BackupCorruptedError,
    BackupStorageError,
    ChecksumAlgorithm,
    ChecksumCalculator,
    CompressionHandler,
    InvalidArgumentError,
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.bin"
    path.write_bytes(bytes(range(256)) * 5000)
    return path


@pytest.mark.parametrize(("algorithm", "theirs"), [("SHA256", "sha256"), ("MD5", "md5"), ("BLAKE2B", "blake2b")])
async def test_checksums_are_those_of_hashlib(file, algorithm, theirs):
    calculator = ChecksumCalculator(ChecksumAlgorithm(algorithm))
    checksum = await calculator.calculate_file_checksum(file)
    assert checksum == hashlib.new(theirs, file.read_bytes()).hexdigest()
    assert await calculator.verify_file_checksum(str(file), expected_checksum=checksum.upper())
    assert not await calculator.verify_file_checksum(file, expected_checksum="0" * len(checksum))


async def test_wrong_arguments_and_missing_files_are_typed(tmp_path, file):
    with pytest.raises(InvalidArgumentError, match="CRC32"):
        ChecksumCalculator("CRC32")
    with pytest.raises(BackupStorageError, match="missing"):
        await ChecksumCalculator().calculate_file_checksum(tmp_path / "missing")
    for path in ("", 5, "a\0b"):
        with pytest.raises(InvalidArgumentError, match="path"):
            await ChecksumCalculator().calculate_file_checksum(path)
    with pytest.raises(InvalidArgumentError, match="expected_checksum"):
        await ChecksumCalculator().verify_file_checksum(file, None)
    for level in (0, 10, "9"):
        with pytest.raises(InvalidArgumentError, match="compression_level"):
            CompressionHandler(level)
    with pytest.raises(InvalidArgumentError, match="max_output_bytes"):
        CompressionHandler(max_output_bytes=0)
    with pytest.raises(BackupStorageError, match="missing"):
        await CompressionHandler().compress_file(tmp_path / "missing")


@pytest.mark.parametrize(("prefer_zstd", "suffix"), [(True, ".zst"), (False, ".gz")])
async def test_a_file_comes_back_as_it_was(file, prefer_zstd, suffix):
    handler = CompressionHandler(compression_level=9, prefer_zstd=prefer_zstd)
    content = file.read_bytes()
    packed = await handler.compress_file(file)
    assert packed == file.with_name(f"rows.bin{suffix}")
    assert packed.stat().st_size < len(content) / 10
    assert await handler.decompress_file(packed) == file  # the source is there still, with the same content
    file.unlink()
    assert (await handler.decompress_file(packed)).read_bytes() == content
    file.write_bytes(b"mine")
    with pytest.raises(InvalidArgumentError, match="there already"):
        await handler.decompress_file(packed)
    assert file.read_bytes() == b"mine"
    await handler.decompress_file(packed, overwrite=True)
    assert file.read_bytes() == content


async def test_a_bomb_stops_at_the_callers_ceiling(tmp_path):
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(50_000_000)))
    with pytest.raises(BackupCorruptedError, match="ceiling") as stopped:
        await CompressionHandler(max_output_bytes=1_000_000).decompress_file(bomb)
    assert stopped.value.failed_files == [str(bomb)]
    with pytest.raises(BackupCorruptedError, match="ceiling"):
        await CompressionHandler().decompress_file(bomb, max_output_bytes=49_999_999)
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.gz"]
    unpacked = await CompressionHandler().decompress_file(bomb, max_output_bytes=50_000_000)
    assert unpacked.stat().st_size == 50_000_000


async def test_damage_and_strangers_are_refused(tmp_path, file):
    packed = await CompressionHandler().compress_file(file)
    content = packed.read_bytes()
    for bytes_now in (content[:-4], b"nothing that is packed", b""):
        packed.write_bytes(bytes_now)
        with pytest.raises(BackupCorruptedError):
            await CompressionHandler().decompress_file(packed, tmp_path / "out")
    assert not (tmp_path / "out").exists()


async def test_the_event_loop_stays_free_and_canceling_leaves_nothing(tmp_path):
    large = tmp_path / "large"
    large.write_bytes(hashlib.shake_256(b"x").digest(1_000_000) * 60)
    task = asyncio.create_task(CompressionHandler(9).compress_file(large))
    ticks = 0
    while ticks < 20 and not task.done():
        await asyncio.sleep(0.001)
        ticks += 1
    assert ticks == 20
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [path.name for path in tmp_path.iterdir()] == ["large"]
