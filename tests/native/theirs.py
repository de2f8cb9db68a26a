"""A backup that milvus-backup made, its rows as the server told them then, and what can befall its files."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

DATA = Path(__file__).parent.parent / "data" / "milvus-backup"
LAST = 470611627054465025
"""When the last of its rows were written, as a hybrid timestamp."""


def expected() -> dict[int, dict[str, object]]:
    """The rows that lived, by key, as the server told them when the backup was made."""
    lines = gzip.decompress((DATA / "fx_int.expected.jsonl.gz").read_bytes()).decode().splitlines()
    return {row["pk"]: row for row in map(json.loads, lines)}


def as_told(table: pa.Table) -> dict[int, dict[str, object]]:
    """Rows of a table as `expected` has them, partitions left out."""
    rows = {}
    for row in table.to_pylist():
        dynamic = json.loads(row.pop("$meta"))
        rows[row["pk"]] = row | dynamic | {"j": json.loads(row["j"])}
    return rows


def make_early(theirs: Path) -> None:
    """Makes it one of an early version: no folders of groups, level files alone, numbers of files only in paths."""
    for kind in ("insert_log", "delta_log"):
        for segment in list((theirs / "binlogs" / kind).glob("*/*/*/*")):
            segment.rename(segment.parent.parent / f"{segment.name}.moved")
        for moved in list((theirs / "binlogs" / kind).glob("*/*/*.moved")):
            shutil.rmtree(moved.with_suffix(""))
            moved.rename(moved.with_suffix(""))
    (theirs / "meta" / "full_meta.json").unlink()
    segments = json.loads((theirs / "meta" / "segment_meta.json").read_text())
    for segment in segments["infos"]:
        del segment["group_id"]
        for field in segment["binlogs"]:
            for log in field["binlogs"]:
                del log["log_id"]
    (theirs / "meta" / "segment_meta.json").write_text(json.dumps(segments))


def make_untimed(folder: Path) -> None:
    """Makes its files such as the compaction of later servers writes: they do not say when their rows were written."""
    for file in [file for kind in ("insert_log", "delta_log") for file in folder.glob(f"**/{kind}/**/*")]:
        if not file.is_file():
            continue
        data = bytearray(file.read_bytes())
        data[53:69] = bytes(16)
        at = 4
        while at < len(data):
            (length,) = struct.unpack_from("<i", data, at + 9)
            if at > 4:
                struct.pack_into("<i", data, at + 13, -1)
            at += length
        file.unlink()  # it may have other names, of which one is a server's
        file.write_bytes(data)


def _one(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def _without_segment(theirs: Path) -> str:
    segment = _one(theirs, "binlogs/insert_log/*/*/*/*")
    shutil.rmtree(segment)
    return segment.name


def _without_deletes(theirs: Path) -> str:
    delta = next(path for path in sorted(theirs.glob("binlogs/delta_log/**/*")) if path.is_file())
    delta.unlink()
    return delta.name


def _without_field(theirs: Path) -> str:
    field = _one(theirs, "binlogs/insert_log/*/*/*/*/107")
    shutil.rmtree(field)
    return "107"


def _flipped(theirs: Path) -> str:
    file = _one(theirs, "binlogs/insert_log/*/*/*/*/112/*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)
    return file.name


def _cut(theirs: Path) -> str:
    file = _one(theirs, "binlogs/insert_log/*/*/*/*/100/*")
    file.write_bytes(file.read_bytes()[:-7])
    return file.name


def _unnamed_field(theirs: Path) -> str:
    """The metadata does not know the field's files any more."""
    meta = json.loads((theirs / "meta" / "full_meta.json").read_text())
    segment = meta["collection_backups"][0]["partition_backups"][0]["segment_backups"][0]
    segment["binlogs"] = [field for field in segment["binlogs"] if field.get("fieldID") != 106]
    (theirs / "meta" / "full_meta.json").write_text(json.dumps(meta))
    return "i64"


def _more_rows(theirs: Path) -> str:
    """The metadata promises more rows than there are."""
    meta = json.loads((theirs / "meta" / "full_meta.json").read_text())
    segment = meta["collection_backups"][0]["partition_backups"][0]["segment_backups"][0]
    segment["num_of_rows"] += 1
    (theirs / "meta" / "full_meta.json").write_text(json.dumps(meta))
    return str(segment["segment_id"])


def _broken_metadata(theirs: Path) -> str:
    (theirs / "meta" / "full_meta.json").write_text("{")
    return "full_meta.json"


DAMAGES: list[Callable[[Path], str]] = [
    _without_segment,
    _without_deletes,
    _without_field,
    _flipped,
    _cut,
    _unnamed_field,
    _more_rows,
    _broken_metadata,
]
"""Each damages it so that rows would be missing or come back, and gives the word that names what is damaged."""
