"""A reader of backups written from docs/format.md alone, with pyarrow, json, hashlib and xxhash. No Milvault in it.

Slow and small on purpose: it is the documentation's proof. `read(folder)` opens a backup and checks on its way every
promise that the format makes; each `assert` is a sentence of the page.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

Field = dict[str, Any]
Modulus = 1 << 128
HASHES = {"SHA256": hashlib.sha256, "MD5": hashlib.md5, "BLAKE2B": hashlib.blake2b}
NOT_LISTED = {"metadata.json", "checksums.json", "verification.json"}
TAGS = {
    "bool": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float": 10, "double": 11, "varchar": 21, "array": 22,
    "json": 23, "geometry": 24, "timestamptz": 26, "binary_vector": 100, "float_vector": 101, "float16_vector": 102,
    "bfloat16_vector": 103, "sparse_float_vector": 104, "int8_vector": 105,
}  # fmt: skip
WIDTHS = {"int8": 1, "int16": 2, "int32": 4, "int64": 8, "float": 4, "double": 8, "timestamptz": 8}
NANS = {"float": bytes.fromhex("0000c07f"), "double": bytes.fromhex("000000000000f87f")}
VECTOR_ELEMENTS = {"float_vector": 4, "float16_vector": 2, "int8_vector": 1}


@dataclass(frozen=True)
class Opened:
    """What a backup holds."""

    manifest: dict[str, Any]
    schema: dict[str, Any]
    tables: dict[str, list[pa.Table]]
    """The rows, by partition."""


def read(folder: Path) -> Opened:
    """Opens a backup and checks all of it."""
    manifest = read_manifest(folder / "metadata.json")
    assert manifest["metadata_version"] == 1
    assert manifest["state"] == "COMPLETED"
    assert manifest["backup_id"] == folder.name
    check_files(folder, manifest)
    schema = json.loads((folder / "schema.json").read_bytes())
    assert schema == manifest["schema_snapshot"]
    tables = read_chunks(folder, manifest, [field for field in schema["fields"] if not field.get("function_output")])
    return Opened(manifest, schema, tables)


def read_manifest(file: Path) -> dict[str, Any]:
    """The manifest, once its last member vouches for every other byte."""
    content = file.read_bytes()
    end = b'"\n}\n'
    assert content.endswith(end)
    before, digits = content[: -len(end) - 64], content[-len(end) - 64 : -len(end)]
    assert before.endswith(b',\n  "self": "sha256:')
    assert hashlib.sha256(before + end).hexdigest().encode() == digits
    return json.loads(content)


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Every file against `checksums.json`, that against the manifest; none is missing, none is too many."""
    listing = (folder / "checksums.json").read_bytes()
    hash_of = HASHES[manifest["checksum_algorithm"]]
    assert hash_of(listing).hexdigest() == manifest["checksum"]
    sums = json.loads(listing)
    assert sums["algorithm"] == manifest["checksum_algorithm"]
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - NOT_LISTED
    assert set(sums["files"]) == present
    for path, expected in sums["files"].items():
        content = (folder / path).read_bytes()
        assert expected == {"bytes": len(content), "checksum": hash_of(content).hexdigest()}
    total = sum(entry["bytes"] for entry in sums["files"].values()) + len(listing)
    assert total == manifest["compressed_size_bytes"]


def read_chunks(folder: Path, manifest: dict[str, Any], fields: list[Field]) -> dict[str, list[pa.Table]]:
    """The rows of every data file, their digests recomputed for row group, chunk and partition."""
    assert manifest["digest"]["algorithm"] == "xxh3-128"
    chunks = json.loads((folder / "chunks.json").read_bytes())["chunks"]
    assert manifest["segment_count"] == len(chunks)
    assert manifest["row_count"] == sum(chunk["rows"] for chunk in chunks)
    assert manifest["size_bytes"] == sum(chunk["bytes"] for chunk in chunks)
    key = next(field["name"] for field in fields if field.get("primary_key"))
    tables: dict[str, list[pa.Table]] = {name: [] for name in manifest["digest"]["partitions"]}
    sums = {name: [0, 0] for name in tables}
    for chunk in chunks:
        assert (folder / chunk["file"]).stat().st_size == chunk["file_bytes"]
        digest, rows = 0, 0
        for table, promised in row_groups(folder / chunk["file"], fields):
            found = sum(row_digests(table, fields)) % Modulus
            assert promised == {"rows": table.num_rows, "digest": f"{found:032x}"}
            digest, rows = (digest + found) % Modulus, rows + table.num_rows
            tables[chunk["partition"]].append(table)
            keys = table.column(key).to_pylist()
            order = [one.encode() if isinstance(one, str) else one for one in keys]
            assert order == sorted(set(order)), "keys ascend strictly"
            assert all(bounds(chunk["lowest"]) <= one <= bounds(chunk["highest"]) for one in order)
        assert (chunk["rows"], chunk["digest"]) == (rows, f"{digest:032x}")
        sums[chunk["partition"]][0] += rows
        sums[chunk["partition"]][1] += digest
    for name, promised in manifest["digest"]["partitions"].items():
        assert promised == {"rows": sums[name][0], "digest": f"{sums[name][1] % Modulus:032x}"}
    return tables


def bounds(key: int | str) -> int | bytes:
    return key.encode() if isinstance(key, str) else key


def row_groups(file: Path, fields: list[Field]) -> list[tuple[pa.Table, dict[str, Any]]]:
    """A data file's row groups, each with what the footer promises of it."""
    with pq.ParquetFile(file) as parquet:
        footer = parquet.metadata.metadata
        assert footer[b"milvault.format"] == b"1"
        promised = json.loads(footer[b"milvault.row_groups"])
        assert len(promised) == parquet.num_row_groups
        columns = [(one.name, int(one.metadata[b"PARQUET:field_id"])) for one in parquet.schema_arrow]
        assert columns == [(field["name"], field["id"]) for field in fields]
        return [(parquet.read_row_group(index), promise) for index, promise in enumerate(promised)]


def row_digests(table: pa.Table, fields: list[Field]) -> list[int]:
    """XXH3-128 of each row's canonical encoding."""
    encoded = []
    for field in sorted(fields, key=lambda one: one["name"].encode()):
        name, tag = field["name"].encode(), TAGS[field["data_type"]]
        values = column_values(table.column(field["name"]), field)
        encoded.append([u32(len(name)) + name + tagged(tag, value) for value in values])
    return [xxhash.xxh3_128_intdigest(b"".join(row)) for row in zip(*encoded, strict=True)]


def tagged(tag: int, value: tuple[int, bytes] | None) -> bytes:
    if value is None:
        return bytes([tag, 0])
    more, content = value
    return bytes([tag + more, 1]) + u32(len(content)) + content


def column_values(column: pa.ChunkedArray, field: Field) -> list[tuple[int, bytes] | None]:
    """Each value's bytes, and what is added to its type tag; None for null."""
    values: list[tuple[int, bytes] | None] = []
    for chunk in column.chunks:
        array = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
        payloads = array_values(array, field["data_type"], field)
        valid = array.is_valid().to_pylist()
        values += [payload if there else None for payload, there in zip(payloads, valid, strict=True)]
    return values


def array_values(array: pa.Array, kind: str, field: Field) -> list[tuple[int, bytes]]:
    if kind == "json":
        return [json_value(text or "") for text in array.to_pylist()]
    if kind in VECTOR_ELEMENTS:
        elements, width = array.values, VECTOR_ELEMENTS[kind]
        size = array.type.list_size
        parts = fixed(elements, width)
        first = array.offset
        return [(0, b"".join(parts[(first + row) * size : (first + row + 1) * size])) for row in range(len(array))]
    if kind == "sparse_float_vector":
        pairs = [(row or {"indices": [], "values": []}) for row in array.to_pylist()]
        return [(0, sparse(row["indices"], row["values"])) for row in pairs]
    if kind == "array":
        element, offsets = field["element_type"], array.offsets.to_pylist()
        items = scalars(array.values, element)
        if element == "varchar":
            items = [u32(len(item)) + item for item in items]
        head = bytes([TAGS[element]])
        return [
            (0, head + u32(stop - start) + b"".join(items[start:stop])) for start, stop in itertools.pairwise(offsets)
        ]
    return [(0, value) for value in scalars(array, kind)]


def scalars(array: pa.Array, kind: str) -> list[bytes]:
    if kind == "bool":
        return [bytes([bool(value)]) for value in array.to_pylist()]
    if kind in ("varchar", "geometry"):
        return [(value or "").encode() for value in array.to_pylist()]
    if kind in ("bfloat16_vector", "binary_vector"):
        return [value or b"" for value in array.to_pylist()]
    values = fixed(array, WIDTHS[kind])
    if kind in NANS:
        numbers = array.to_pylist()
        return [NANS[kind] if number != number else value for number, value in zip(numbers, values, strict=True)]
    return values


def fixed(array: pa.Array, width: int) -> list[bytes]:
    """The bytes of each value as they are stored, so that floats keep their bits."""
    content = array.buffers()[1]
    view = memoryview(content) if content is not None else memoryview(b"")
    start = array.offset * width
    return [bytes(view[at : at + width]) for at in range(start, start + len(array) * width, width)]


def sparse(indices: list[int], values: list[float]) -> bytes:
    pairs = sorted(zip(indices, values, strict=True), key=lambda pair: pair[0])
    return u32(len(pairs)) + b"".join(u32(index) + struct.pack("<f", value) for index, value in pairs)


class Whole(str):
    """A number of a JSON text without point and exponent, as written."""

    __slots__ = ()


class Broken(str):
    """Any other number of a JSON text, as written."""

    __slots__ = ()


def json_value(text: str) -> tuple[int, bytes]:
    """Canonical JSON; text that has no canonical form as it stands, under a tag of its own."""
    try:
        parsed = json.loads(text, parse_int=Whole, parse_float=Broken, parse_constant=refuse)
        return 0, canonical_json(parsed, 0)
    except (ValueError, RecursionError):
        return 128, text.encode()


def canonical_json(value: Any, depth: int) -> bytes:
    if value is None or value is True or value is False:
        return {None: b"n", True: b"t", False: b"f"}[value]
    if isinstance(value, Broken) and math.isfinite(float(value)):
        return b"." + struct.pack("<d", float(value))
    if isinstance(value, Whole | Broken):
        digits = b"0" if value == "-0" else value.encode()
        return b"#" + u32(len(digits)) + digits
    if isinstance(value, str):
        text = value.encode()  # refuses half of a surrogate pair
        return b'"' + u32(len(text)) + text
    if depth == 128:
        raise ValueError("nested too deep")
    if isinstance(value, list):
        return b"[" + u32(len(value)) + b"".join(canonical_json(item, depth + 1) for item in value)
    members = sorted(value.items(), key=lambda member: member[0].encode())
    inside = [canonical_json(key, 0) + canonical_json(item, depth + 1) for key, item in members]
    return b"{" + u32(len(members)) + b"".join(inside)


def refuse(word: str) -> Any:
    raise ValueError(word)


def u32(number: int) -> bytes:
    return struct.pack("<I", number)
