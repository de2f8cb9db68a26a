"""Milvus's own files as others see them: taken apart with `struct` and read with pyarrow, never with Milvault."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MAGIC = 0xFFFABC
ROW_ID, TIMESTAMP = 0, 1


def values(file: Path) -> list[Any]:
    """What a file holds: the column `val` of each of its events, one after the other."""
    return stored(file).to_pylist()


def stored(file: Path) -> pa.ChunkedArray:
    """What a file holds, as it is stored."""
    data = file.read_bytes()
    assert struct.unpack_from("<i", data)[0] == MAGIC, f"{file} is no binlog"
    found: list[pa.ChunkedArray] = []
    at, events = 4, 0
    while at < len(data):
        kind, length = struct.unpack_from("<bi", data, at + 8)
        if events > 0:
            assert kind in (1, 2), f"{file} has an event of type {kind}"
            payload = data[at + 17 + 16 : at + length]
            found.append(pq.read_table(pa.BufferReader(payload)).column("val"))
        at, events = at + length, events + 1
    assert at == len(data), f"{file} ends within an event"
    return pa.chunked_array([chunk for column in found for chunk in column.chunks])


@dataclass(frozen=True)
class Segment:
    """A segment's folders in a backup; the last part of each is its number."""

    inserts: Path
    deletes: Path

    @property
    def partition(self) -> int:
        """The number of its partition."""
        return int(self.inserts.parts[-3])

    @property
    def number(self) -> int:
        """Its own number."""
        return int(self.inserts.name)

    def column(self, field: int) -> list[Any]:
        """A field's values, deleted rows included."""
        files = sorted((self.inserts / str(field)).iterdir(), key=lambda file: int(file.name))
        return [value for file in files for value in values(file)]

    def deleted(self) -> list[tuple[Any, int]]:
        """Keys, and when each was deleted."""
        files = sorted(self.deletes.iterdir(), key=lambda file: int(file.name)) if self.deletes.exists() else []
        entries = [json.loads(text) for file in files for text in values(file)]
        return [(entry["pk"], entry["ts"]) for entry in entries]


def segments(backup: str | Path) -> list[Segment]:
    """The segments in a native backup, by number."""
    logs = Path(backup) / "binlogs"
    found = [
        Segment(folder, logs / "delta_log" / folder.relative_to(logs / "insert_log"))
        for folder in logs.glob("insert_log/*/*/*/*")
    ]
    return sorted(found, key=lambda segment: segment.number)


def alive(backup: str | Path, key_field: int, at: int) -> list[Any]:
    """The keys of the rows that live at a hybrid timestamp, in order; one that is there twice comes twice."""
    return sorted(_alive(backup, key_field, at))


def _alive(backup: str | Path, key_field: int, at: int) -> Iterator[Any]:
    for segment in segments(backup):
        deleted = [(key, when) for key, when in segment.deleted() if when <= at]
        for key, written in zip(segment.column(key_field), segment.column(TIMESTAMP), strict=True):
            if written <= at and not any(other == key and written < when for other, when in deleted):
                yield key
