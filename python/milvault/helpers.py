"""Checksums and compressed copies of single files. Both work on the core's threads: the event loop stays free."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .enums import ChecksumAlgorithm
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._seam import SessionFactory

DEFAULT_CEILING_BYTES = 16 * 1024**3
"""What an unpacked file may have at most, unless the caller says otherwise: 16 GiB."""


class ChecksumCalculator:
    """Checksums of files.

    Args:
        algorithm: SHA256, MD5 or BLAKE2B (64 bytes), as a `ChecksumAlgorithm` or its name.

    Raises:
        InvalidArgumentError: There is no such algorithm.

    Example:
        ```python
        calculator = ChecksumCalculator(ChecksumAlgorithm.SHA256)
        checksum = await calculator.calculate_file_checksum("export.parquet")
        assert await calculator.verify_file_checksum("export.parquet", expected_checksum=checksum)
        ```
    """

    def __init__(
        self,
        algorithm: ChecksumAlgorithm | str = ChecksumAlgorithm.SHA256,
        *,
        session_factory: SessionFactory | None = None,
    ) -> None:
        try:
            self.algorithm = ChecksumAlgorithm(algorithm)
        except ValueError:
            names = ", ".join(ChecksumAlgorithm)
            raise InvalidArgumentError(f"{algorithm!r} is not a checksum algorithm: use one of {names}") from None
        self._session_factory = session_factory

    async def calculate_file_checksum(self, path: str | os.PathLike[str]) -> str:
        """A file's checksum in lower-case hex, as `hashlib` gives it.

        Raises:
            BackupStorageError: The file cannot be read.
            InvalidArgumentError: `path` is none.
        """
        request = {"path": _path("path", path), "algorithm": self.algorithm.value}
        return str(await _run("checksum_file", request, self._session_factory))

    async def verify_file_checksum(self, path: str | os.PathLike[str], expected_checksum: str) -> bool:
        """Whether a file has this checksum; upper and lower case are one.

        Raises:
            BackupStorageError: The file cannot be read.
            InvalidArgumentError: `path` or `expected_checksum` is none.
        """
        if not isinstance(expected_checksum, str):
            raise InvalidArgumentError(
                f"expected_checksum has to be hex digits, not {type(expected_checksum).__name__}"
            )
        return await self.calculate_file_checksum(path) == expected_checksum.strip().lower()

    def __repr__(self) -> str:
        return f"ChecksumCalculator({self.algorithm.value!r})"


class CompressionHandler:
    """Compressed copies of files. The source stays; a copy gets its name only once it is whole and on the disk.

    A file that is in its place already stays where it has the same content, and is refused where it has not.

    Args:
        compression_level: 1 (fast) to 9 (small).
        prefer_zstd: Whether to write zstd frames (`.zst`); else gzip (`.gz`). Both can always be unpacked.
        max_output_bytes: Unpacking stops above so many bytes, and leaves nothing: a small file may unpack to terabytes.

    Raises:
        InvalidArgumentError: A level or a ceiling out of range.

    Example:
        ```python
        handler = CompressionHandler(compression_level=9)
        packed = await handler.compress_file("export.csv")  # export.csv.zst
        unpacked = await handler.decompress_file(packed, "again.csv")
        ```
    """

    def __init__(
        self,
        compression_level: int = 9,
        prefer_zstd: bool = True,
        *,
        max_output_bytes: int = DEFAULT_CEILING_BYTES,
        session_factory: SessionFactory | None = None,
    ) -> None:
        self.compression_level = _whole("compression_level", compression_level, most=9)
        self.prefer_zstd = bool(prefer_zstd)
        self.max_output_bytes = _whole("max_output_bytes", max_output_bytes)
        self._session_factory = session_factory

    async def compress_file(
        self,
        path: str | os.PathLike[str],
        output_path: str | os.PathLike[str] | None = None,
        *,
        overwrite: bool = False,
    ) -> Path:
        """Compresses a file.

        Args:
            path: The file.
            output_path: Where to. Unset: its own name with `.zst` or `.gz` behind it.
            overwrite: Whether to replace a file that is there.

        Returns:
            The new file.

        Raises:
            BackupStorageError: The file cannot be read, or the new one not written.
            InvalidArgumentError: There is another file in its place.
        """
        request = {
            "path": _path("path", path),
            "output_path": None if output_path is None else _path("output_path", output_path),
            "compression_level": self.compression_level,
            "prefer_zstd": self.prefer_zstd,
            "overwrite": overwrite,
        }
        return Path((await _run("compress_file", request, self._session_factory))["path"])

    async def decompress_file(
        self,
        path: str | os.PathLike[str],
        output_path: str | os.PathLike[str] | None = None,
        *,
        max_output_bytes: int | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Unpacks a zstd or gzip file, told by its content.

        Args:
            path: The file.
            output_path: Where to. Unset: its own name without `.zst` or `.gz`.
            max_output_bytes: As for the class, for this call.
            overwrite: Whether to replace a file that is there.

        Returns:
            The new file.

        Raises:
            BackupCorruptedError: The file is damaged, cut short, neither of the two, or larger than the ceiling.
            BackupStorageError: The file cannot be read, or the new one not written.
            InvalidArgumentError: There is another file in its place, or the new one has no name.
        """
        ceiling = self.max_output_bytes if max_output_bytes is None else _whole("max_output_bytes", max_output_bytes)
        request = {
            "path": _path("path", path),
            "output_path": None if output_path is None else _path("output_path", output_path),
            "max_output_bytes": ceiling,
            "overwrite": overwrite,
        }
        return Path((await _run("decompress_file", request, self._session_factory))["path"])

    def __repr__(self) -> str:
        return f"CompressionHandler(compression_level={self.compression_level}, prefer_zstd={self.prefer_zstd})"


async def _run(operation: str, request: Mapping[str, Any], session_factory: SessionFactory | None) -> Any:
    from ._jobs import run_job
    from ._seam import core_session

    session = (session_factory or core_session)(json.dumps({"server": None, "repository": None}))
    return (await run_job(session, operation, request)).unwrap()


def _path(argument: str, value: object) -> str:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidArgumentError(f"{argument} has to be a file's path, not {value!r}")
    return text


def _whole(argument: str, value: object, *, most: int = 2**63 - 1) -> int:
    if not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidArgumentError(f"{argument} has to be a whole number from 1 to {most}, not {value!r}")
    return value
