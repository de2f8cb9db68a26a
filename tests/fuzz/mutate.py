"""Mutations of files, by a seeded generator: bytes, JSON values, and backups whose checksums are right again after."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from pathlib import Path
from typing import Any

HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    2**31,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63) - 1,
    1e308,
    -0.5,
    0.1,
    "",
    " ",
    ".",
    "..",
    "../../outside",
    "/etc/passwd",
    "a/b",
    "nul\x00",
    "\ud83d".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    "🐍" * 50,
    "x" * 300,
    "x" * 70_000,
    "0" * 64,
    "ff" * 16,
    "FF" * 16,
    "9" * 400,
    "int64",
    "float_vector",
    "array",
    "geometry",
    "COMPLETED",
    "DELETING",
    "INCREMENTAL",
    "MILVUS_NATIVE",
    "2026-11-21T06:30:00",
    "+99999-01-01T00:00:00Z",
    "-0001-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:60Z",
    "b20261121T063000Z_3f9a1c",
    "b20269921T063000Z_3f9a1c",
    [],
    {},
    [[]],
    [None],
    [1, "a", {}],
    {"": None},
    {"a": {"b": []}},
]
"""Values that break an assumption about type, size, range or form."""

KEYS = ["", "self", "size_mb", "to_dict", "is_completed", "model_config", "__class__", "_all", "..", "a" * 5000, "🐍"]
"""Names for members that should not be there."""


def nested(depth: int) -> Any:
    """Lists in lists, deeper than parsers like."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON document, its own included."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def json_value(rng: random.Random, document: Any) -> Any:
    """The document with one to three values changed, gone, doubled or added."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        path = rng.choice(places(document))
        if not path:
            if rng.random() < 0.1:
                return copy.deepcopy(rng.choice(HOSTILE))
            continue
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        key, kind = path[-1], rng.randrange(7)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif kind == 1 or kind == 2:
            value = copy.deepcopy(rng.choice(HOSTILE))
            if isinstance(parent, dict):
                parent[rng.choice(KEYS)] = value
            else:
                parent.insert(key, value)
        elif kind == 3 and isinstance(parent[key], int):
            parent[key] += rng.choice([-1, 1, 2**16, -(2**16)])
        elif kind == 4 and isinstance(parent[key], str) and parent[key]:
            at = rng.randrange(len(parent[key]))
            parent[key] = parent[key][:at] + rng.choice(["", "\x00", "é", "/", "x"]) + parent[key][at + 1 :]
        elif kind == 5 and rng.random() < 0.3:
            parent[key] = nested(rng.choice([50, 100]))
        else:
            parent[key] = copy.deepcopy(rng.choice(HOSTILE))
    return document


def some_bytes(rng: random.Random, content: bytes) -> bytes:
    """The content with bytes flipped, cut, doubled, put in or taken out."""
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(changed)) if changed else 0
        length = rng.choice([1, 1, 2, 4, 8, 64])
        kind = rng.randrange(6)
        if kind <= 1 and changed:
            changed[at] ^= rng.randrange(1, 256)
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = rng.randbytes(length)
        elif kind == 4:
            changed[at:at] = changed[at : at + length]
        elif rng.random() < 0.3:
            del changed[at:]
        else:
            changed[at : at + length] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * length
    return bytes(changed)


def seal(manifest: dict[str, Any]) -> bytes:
    """A manifest's bytes, its own checksum in them right."""
    members = {name: value for name, value in manifest.items() if name != "self"}
    before = json.dumps(members, indent=2, ensure_ascii=False).removesuffix("\n}")
    before += ("," if members else "") + '\n  "self": "sha256:'
    after = '"\n}\n'
    return (before + hashlib.sha256((before + after).encode()).hexdigest() + after).encode()


def repair(folder: Path) -> None:
    """Makes every checksum of a backup right for what its files hold now, as far as its own files can still be read.

    What a mutation wrote into `checksums.json` and `metadata.json` themselves stays, but for the sums.
    """
    table = json.loads((folder / "chunks.json").read_bytes()) if _is_json(folder / "chunks.json") else None
    if isinstance(table, dict) and isinstance(table.get("chunks"), list):
        for chunk in table["chunks"]:
            if isinstance(chunk, dict) and isinstance(chunk.get("file"), str) and _size(folder, chunk["file"]):
                chunk["file_bytes"] = _size(folder, chunk["file"])
        (folder / "chunks.json").write_bytes(json.dumps(table).encode())
    sums = json.loads((folder / "checksums.json").read_bytes()) if _is_json(folder / "checksums.json") else None
    if isinstance(sums, dict) and isinstance(sums.get("files"), dict):
        for name, entry in sums["files"].items():
            if isinstance(entry, dict) and _size(folder, name) is not None:
                content = (folder / name).read_bytes()
                entry |= {"bytes": len(content), "checksum": hashlib.sha256(content).hexdigest()}
        (folder / "checksums.json").write_bytes(json.dumps(sums).encode())
    manifest = json.loads((folder / "metadata.json").read_bytes()) if _is_json(folder / "metadata.json") else None
    if isinstance(manifest, dict):
        if isinstance(manifest.get("checksum"), str):
            manifest["checksum"] = hashlib.sha256((folder / "checksums.json").read_bytes()).hexdigest()
        (folder / "metadata.json").write_bytes(seal(manifest))


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError):
        return False
    return True


def _size(folder: Path, name: str) -> int | None:
    inside = name and ".." not in name and not name.startswith("/") and "\x00" not in name and len(name) < 200
    file = folder / name
    return file.stat().st_size if inside and file.is_file() else None
