"""Backups as others could write them: sealed manifests, with or without files, and what an attacker makes of them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BEFORE, AFTER = ',\n  "self": "sha256:', '"\n}\n'


def sealed(manifest: dict[str, Any]) -> bytes:
    """The file's bytes, its own checksum included."""
    body = {key: value for key, value in manifest.items() if key != "self"}
    before = json.dumps(body, indent=2, ensure_ascii=False).removesuffix("\n}") + BEFORE
    return (before + hashlib.sha256((before + AFTER).encode()).hexdigest() + AFTER).encode()


def reseal(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a backup's manifest, as somebody who knows the format would."""
    path = folder / "metadata.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    change(manifest)
    path.write_bytes(sealed(manifest))


def backup_id(created_at: dt.datetime, number: int) -> str:
    """An id as Milvault makes them."""
    return f"b{created_at:%Y%m%dT%H%M%SZ}_{number:06x}"


SCHEMA = {
    "name": "articles",
    "database": "default",
    "fields": [
        {"id": 100, "name": "id", "data_type": "Int64", "primary_key": True},
        {"id": 101, "name": "title", "data_type": "VarChar", "params": {"max_length": "512"}},
        {"id": 102, "name": "tags", "data_type": "Array", "element_type": "VarChar", "params": {"max_capacity": "16"}},
        {"id": 103, "name": "vector", "data_type": "FloatVector", "params": {"dim": "768"}},
    ],
    "partitions": ["_default"],
}


def manifest(
    created_at: dt.datetime, number: int, collection: str, *, database: str = "default", **changes: Any
) -> dict[str, Any]:
    """The manifest of a backup of a million rows, as large as a real one."""
    time = created_at.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "metadata_version": 1,
        "state": "COMPLETED",
        "backup_id": backup_id(created_at, number),
        "backup_name": f"{collection}_{number}",
        "database": database,
        "collection_name": collection,
        "partition_names": ["_default"],
        "created_at": time,
        "completed_at": time,
        "storage_type": "LOCAL_FILE",
        "backup_type": "FULL_COLLECTION",
        "row_count": 1_000_000,
        "segment_count": 12,
        "size_bytes": 3 * 2**30,
        "compressed_size_bytes": 2**30,
        "compression_enabled": True,
        "compression_level": 6,
        "include_indexes": True,
        "checksum_algorithm": "SHA256",
        "checksum": "ab" * 32,
        "milvus_version": "2.3.5",
        "tool_version": "0.1.0",
        "tags": [],
        "parent": None,
        "schema_snapshot": {**SCHEMA, "name": collection, "database": database},
        "snapshot": {
            "kind": "fuzzy",
            "started_at": time,
            "ended_at": time,
            "count_before": 10**6,
            "count_after": 10**6,
        },
        "digest": {"algorithm": "xxh3-128", "partitions": {"_default": {"rows": 10**6, "digest": "1f" * 16}}},
        "error_message": None,
        "warnings": [],
        **changes,
    }


def verification(success: bool, verified_at: str = "2026-01-01T00:00:00Z", kind: str = "CHECKSUM") -> dict[str, Any]:
    """A `verification.json`."""
    return {
        "success": success,
        "verification_type": kind,
        "checksum_valid": success,
        "verified_at": verified_at,
        "by_type": {kind: {"verified_at": verified_at, "success": success}},
    }


def put(root: Path, manifest: dict[str, Any], verified: bool | None = None) -> Path:
    """Writes a backup that is a manifest alone, and what its last verification found; its folder."""
    database, collection = manifest["database"], manifest["collection_name"]
    folder = root / (collection if database == "default" else f"{database}.{collection}") / manifest["backup_id"]
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_bytes(sealed(manifest))
    if verified is not None:
        (folder / "verification.json").write_text(json.dumps(verification(verified)))
    return folder


def fill(root: Path, count: int, collections: Iterable[str], now: dt.datetime, hours: float = 6) -> None:
    """Writes `count` backups of the collections in turn, every `hours` hours back from `now`; most are verified."""
    names = list(collections)
    for number in range(count):
        created_at = now - dt.timedelta(hours=hours * (number // len(names)))
        verified = True if number % 7 else None
        put(root, manifest(created_at, number, names[number % len(names)]), verified)
