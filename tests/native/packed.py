"""Milvus's storage version 2, made of version 1's files: several fields in a Parquet file, deletes as two columns.

Laid out as Milvus 2.6 and milvus-storage say in public; no server that writes it runs here. pyarrow writes it, and
Milvault is not asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.native.binlogs import stored, values

SHORT = 0
"""The group of all fields that are no vectors, Milvus's own among them."""


def _numbered(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: int(path.name)) if folder.exists() else []


def _write(file: Path, columns: Mapping[int, pa.ChunkedArray], groups: Mapping[int, list[int]]) -> None:
    def marked(field: int) -> pa.Field:
        known = {b"PARQUET:field_id": str(field).encode()}
        return pa.field(f"field {field}", columns[field].type, nullable=False, metadata=known)

    told = {"storage_version": "1.0.0", "group_field_id_list": ";".join(",".join(map(str, g)) for g in groups.values())}
    schema = pa.schema([marked(field) for field in columns], metadata=told)
    table = pa.Table.from_arrays(list(columns.values()), schema=schema)
    pq.write_table(table, file, compression="zstd", row_group_size=250, store_schema=True)


def pack_rows(segment: Path) -> dict[int, list[Path]]:
    """Puts the files of a segment's fields into files of groups of fields; the new files, by group."""
    fields = {int(folder.name): _numbered(folder) for folder in segment.iterdir()}
    count = len(fields[0])
    assert all(len(files) == count for files in fields.values()), "fields have different numbers of files"
    kinds = {field: stored(files[0]).type for field, files in fields.items()}
    groups: dict[int, list[int]] = {SHORT: []}
    for field in sorted(fields):
        if pa.types.is_fixed_size_binary(kinds[field]):
            groups[field] = [field]
        else:
            groups[SHORT].append(field)
    packed: dict[int, list[Path]] = {}
    for part in range(count):
        arrays = {field: stored(files[part]) for field, files in fields.items()}
        for files in fields.values():
            files[part].unlink()
        for group, members in groups.items():
            file = segment / str(group) / fields[group][part].name
            _write(file, {field: arrays[field] for field in members}, groups)
            packed.setdefault(group, []).append(file)
    for folder in segment.iterdir():
        if int(folder.name) not in groups:
            folder.rmdir()
    return packed


def pack_deletes(file: Path) -> None:
    """Makes a delta log one of two columns."""
    rows = [json.loads(text) for text in values(file)]
    keys = pa.array([row["pk"] for row in rows])
    times = pa.array([row["ts"] for row in rows], pa.int64())
    _write(file, {0: pa.chunked_array([keys]), 1: pa.chunked_array([times])}, {0: [0, 1]})


def pack_backup(folder: Path) -> None:
    """Makes a backup by milvus-backup one of a server that writes storage version 2."""
    meta = folder / "meta" / "full_meta.json"
    whole = json.loads(meta.read_text())
    for collection in whole["collection_backups"]:
        for partition in collection["partition_backups"]:
            for segment in partition["segment_backups"]:
                _pack_segment(folder / "binlogs", segment)
    meta.write_text(json.dumps(whole))


def _pack_segment(logs: Path, segment: dict[str, Any]) -> None:
    place = [str(segment[name]) for name in ("collection_id", "partition_id", "group_id", "segment_id")]
    segment["storage_version"] = 2

    def told(file: Path) -> dict[str, Any]:
        return {"log_path": f"elsewhere/{file.name}", "log_size": file.stat().st_size, "log_id": int(file.name)}

    packed = pack_rows(logs / "insert_log" / Path(*place))
    # As Go writes it: a number that is 0 is left out.
    segment["binlogs"] = [
        ({"fieldID": group} if group else {}) | {"binlogs": [told(file) for file in files]}
        for group, files in packed.items()
    ]
    deltas = _numbered(logs / "delta_log" / Path(*place))
    for delta in deltas:
        pack_deletes(delta)
    segment["deltalogs"] = [{"binlogs": [told(delta) for delta in deltas]}] if deltas else []
