"""Checksums beside hashlib, and zstd beside the command `zstd` (or pyarrow's codec where there is none).

    python -m benches.compare.files [MiB]

Medians of interleaved rounds over one file that lies in memory's cache: half of it random, half of it text.
The aims, in speed: checksums 0.9 (MD5 0.8), zstd at the same level 0.9. Only a release build tells anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from milvault import ChecksumCalculator, CompressionHandler

ROUNDS = 5
LEVELS = (1, 3, 9)


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def by_hashlib(name: str, path: Path) -> str:
    """The checksum as Python has it, in blocks as large as ours."""
    hasher = hashlib.new(name)
    with path.open("rb") as file:
        while block := file.read(256 << 10):
            hasher.update(block)
    return hasher.hexdigest()


def by_zstd(level: int, path: Path, target: Path) -> None:
    """A compressed copy by the command, on one thread, or by pyarrow."""
    tool = shutil.which("zstd")
    if tool:
        command = [tool, f"-{level}", "-q", "-f", "--single-thread", "-o", str(target), str(path)]
        subprocess.run(command, check=True)
        durable(target)
        return
    import pyarrow as pa

    with (
        pa.CompressedOutputStream(str(target), pa.Codec("zstd", compression_level=level)) as to,
        path.open("rb") as file,
    ):
        while block := file.read(256 << 10):
            to.write(block)
    durable(target)


def durable(path: Path) -> None:
    """Brings a file to the disk, as ours are before they get their name."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def line(what: str, ours: Callable[[], object], theirs: Callable[[], object], size: int) -> None:
    """Measures both in turn, and prints how their speeds compare."""
    pairs = [(timed(ours), timed(theirs)) for _ in range(ROUNDS)]
    mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"| {what} | {size / mine / 2**20:,.0f} | {size / other / 2**20:,.0f} | {other / mine:.2f} |", flush=True)


def main() -> None:
    """Measures, and prints a table in Markdown."""
    size = int(sys.argv[1]) << 20 if len(sys.argv) > 1 else 256 << 20
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder) / "file", Path(folder) / "file.zst"
        text = b"".join(b"%d: a line of text like many others\n" % number for number in range(40_000))
        path.write_bytes(os.urandom(size // 2) + (text * (size // len(text)))[: size // 2])
        print("| what | ours, MiB/s | theirs, MiB/s | ratio |\n|---|---:|---:|---:|")
        for ours, theirs in (("SHA256", "sha256"), ("MD5", "md5"), ("BLAKE2B", "blake2b")):
            calculator = ChecksumCalculator(ours)
            assert asyncio.run(calculator.calculate_file_checksum(path)) == by_hashlib(theirs, path)
            line(
                f"{ours} beside hashlib",
                lambda c=calculator: asyncio.run(c.calculate_file_checksum(path)),
                lambda name=theirs: by_hashlib(name, path),
                size,
            )
        for level in LEVELS:
            handler = CompressionHandler(level)
            line(
                f"zstd {level}",
                lambda h=handler: asyncio.run(h.compress_file(path, target, overwrite=True)),
                lambda number=level: by_zstd(number, path, target),
                size,
            )


if __name__ == "__main__":
    main()
