"""The examples of the contract that checksum and compress a file of one's own, in words of our own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from milvault import ChecksumAlgorithm, ChecksumCalculator, CompressionHandler


async def test_the_checksum_of_a_file_is_computed_and_compared(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"a file of one's own" * 100_000)
    calculator = ChecksumCalculator(ChecksumAlgorithm.SHA256)
    checksum = await calculator.calculate_file_checksum(str(file))
    assert checksum == hashlib.sha256(file.read_bytes()).hexdigest()
    assert await calculator.verify_file_checksum(str(file), expected_checksum=checksum) is True
    file.write_bytes(b"another")
    assert await calculator.verify_file_checksum(str(file), expected_checksum=checksum) is False


async def test_a_file_is_compressed_and_comes_back(tmp_path):
    file = tmp_path / "file"
    content = b"a file of one's own" * 100_000
    file.write_bytes(content)
    handler = CompressionHandler(compression_level=9, prefer_zstd=True)
    compressed_path = await handler.compress_file(str(file))
    file.unlink()
    decompressed_path = await handler.decompress_file(compressed_path)
    assert Path(decompressed_path).read_bytes() == content
