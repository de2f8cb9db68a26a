"""Finds out what becomes of each kind of collection on each server: the table of `docs/types.md`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import CollectionSchema, DataType, FieldSchema, MilvusClient, MilvusException
from pymilvus.exceptions import ParamError

from milvault import (
    BackupManager,
    BackupRecoveryConfig,
    CollectionManager,
    ConnectionManager,
    RestoreParams,
    SchemaIncompatibleError,
)
from tests.conftest import client_of
from tests.recipes import Row, simple
from tests.server.kind import FLAT, Facts, Kind

YES = "yes"
REFUSED = "the server refuses it"
NOT_KEPT = "the server does not keep it"
WARNED = "changed, with a warning"
INCOMPATIBLE = "refused beforehand"
ROWS_REFUSED = "the server refuses its rows"
UNTRIED = "the server dies of it"
NOTHING = ""

AT_ONCE = 6
"""Collections in work side by side: they wait for the server most of the time."""


@dataclass(frozen=True)
class Place:
    """A Milvus to try kinds on, and the folder where its backups go. Managers and clients are made per database."""

    title: str
    uri: str
    root: Path

    def client(self, database: str = "default") -> MilvusClient:
        """pymilvus on one of its databases."""
        return client_of(self.uri, database)

    def manager(self, database: str) -> BackupManager:
        """Milvault on one of its databases."""
        connection = ConnectionManager(uri=self.uri, db_name=database)
        config = BackupRecoveryConfig(
            local_backup_root_path=str(self.root), retry_delay_seconds=0.2, progress_poll_interval=0.02
        )
        return BackupManager(
            connection_manager=connection, collection_manager=CollectionManager(connection), config=config
        )


@dataclass
class Outcome:
    """What became of a kind: a word for the table, and what to fix where something was lost without a word."""

    cell: str
    why: str = ""
    problems: list[str] = field(default_factory=list)


def facts(client: MilvusClient, name: str, *, database: str = "default") -> Facts:
    """What a server says of a collection, comparable between servers: no ids, no times."""
    told = client.describe_collection(name)
    fields = {}
    for entry in told["fields"]:
        params = dict(entry.get("params") or {})
        if "analyzer_params" in params:
            params["analyzer_params"] = json.loads(params["analyzer_params"])
        fields[entry["name"]] = {
            "type": entry["type"].name,
            "element_type": DataType(entry["element_type"]).name if entry.get("element_type") else None,
            "nullable": bool(entry.get("nullable")),
            "default_value": _default_of(entry),
            "auto_id": bool(entry.get("auto_id")),
            "partition_key": bool(entry.get("is_partition_key")),
            "clustering_key": bool(entry.get("is_clustering_key")),
            "description": entry.get("description", ""),
            "params": params,
        }
    indexes: dict[str, Any] = {}
    for index_name in client.list_indexes(name):
        index = client.describe_index(name, index_name)
        more = {key: str(value) for key, value in _build_params(index).items()}
        indexes[index["field_name"]] = {
            "name": index["index_name"],
            "type": index.get("index_type"),
            "metric": index.get("metric_type"),
            **more,
        }
    return {
        "fields": fields,
        "functions": [
            (entry["name"], int(entry["type"]), tuple(entry["input_field_names"]), tuple(entry["output_field_names"]))
            for entry in told.get("functions") or []
        ],
        "structs": [entry["name"] for entry in told.get("struct_fields") or []],
        "description": told.get("description", ""),
        "dynamic": bool(told.get("enable_dynamic_field")),
        "shards": told.get("num_shards"),
        "level": int(told.get("consistency_level") or 0),
        "properties": dict(told.get("properties") or {}),
        "partitions": _partitions(client, name, fields),
        "aliases": len(told.get("aliases") or client.list_aliases(name)["aliases"]) if database == "default" else 0,
        "indexes": indexes,
        "database": database != "default",
    }


def _partitions(client: MilvusClient, name: str, fields: Mapping[str, Any]) -> Any:
    """Their names; those that a partition key makes are the server's own, so only their number."""
    names = sorted(client.list_partitions(name))
    if any(entry["partition_key"] for entry in fields.values()):
        return len([partition for partition in names if partition != "_default"])
    return names


def _build_params(index: Mapping[str, Any]) -> dict[str, Any]:
    """An index's own parameters, which some servers tell one by one and others as one JSON text."""
    flat = {key: value for key, value in index.items() if key not in _INDEX_STATE}
    inner = flat.pop("params", None)
    return {**flat, **(json.loads(inner) if isinstance(inner, str) else inner or {})}


_INDEX_STATE = {
    "index_name",
    "index_type",
    "metric_type",
    "field_name",
    "total_rows",
    "indexed_rows",
    "pending_index_rows",
    "state",
}


def _default_of(entry: Mapping[str, Any]) -> Any:
    value = entry.get("default_value")
    if value is None:
        return None
    which = value.WhichOneof("data") if hasattr(value, "WhichOneof") else None
    return getattr(value, which) if which else None


def _create(client: MilvusClient, name: str, kind: Kind) -> None:
    key = {"dtype": DataType.INT64, "auto_id": False, **kind.key}
    fields = [FieldSchema("id", is_primary=True, **key)]
    if kind.plain_vector:
        fields.append(FieldSchema("vector", DataType.FLOAT_VECTOR, dim=8))
    fields += kind.fields
    schema = CollectionSchema(fields, functions=list(kind.functions), **kind.schema)
    options = {"num_shards": 1, "consistency_level": "Strong", **kind.options}
    client.create_collection(name, schema=schema, **options)
    for partition in kind.partitions:
        client.create_partition(name, partition)
    if kind.alias:
        client.create_alias(name, f"{name}_alias")


def _index(client: MilvusClient, name: str, kind: Kind) -> None:
    params = client.prepare_index_params()
    for field_name, index in {**({"vector": FLAT} if kind.plain_vector else {}), **kind.indexes}.items():
        params.add_index(field_name=field_name, **index)
    client.create_index(name, params)


def _fill(client: MilvusClient, name: str, kind: Kind) -> None:
    rows = kind.rows
    if kind.partitions:
        client.insert(name, rows[:4])
        client.insert(name, rows[4:], partition_name=kind.partitions[0])
    else:
        client.insert(name, rows)


def _read(client: MilvusClient, name: str, kind: Kind) -> dict[Any, Row]:
    outputs = {output for function in kind.functions for output in function.output_field_names}
    rows = client.query(name, filter="", limit=1000, output_fields=["*"], consistency_level="Strong")
    return {row["id"]: {key: _simple(value) for key, value in row.items() if key not in outputs} for row in rows}


def _simple(value: Any) -> Any:
    """As `simple`; vectors that pymilvus takes as arrays and gives back as bytes in a list are bytes."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], bytes):
        return value[0]
    return simple(value)


def _holds(kind: Kind, found: dict[Any, Row]) -> bool:
    """Whether the rows that a server gives back are those that it was given."""
    given = [{key: _simple(value) for key, value in row.items()} for row in kind.rows]
    if kind.key.get("auto_id"):
        strip = [{key: value for key, value in row.items() if key != "id"} for row in found.values()]
        return sorted(map(repr, map(_ordered, strip))) == sorted(map(repr, map(_ordered, given)))
    return {row["id"]: row for row in given} == found


def _ordered(row: Row) -> list[Any]:
    return sorted(row.items(), key=lambda item: item[0])


def prepare(place: Place, kind: Kind, name: str, database: str) -> Outcome | None:
    """Makes the collection and fills it. An outcome where the server refuses or forgets it, else None."""
    try:
        if kind.database and database not in place.client().list_databases():
            place.client().create_database(database)
        client = place.client(database)
        _create(client, name, kind)
        seen = facts(client, name, database=database)
        early = kind.seen(seen)
        if kind.group != "Index definitions" and early != kind.wanted:
            return Outcome(NOT_KEPT, f"asked for {kind.wanted!r}, and it says {early!r}")
        _fill(client, name, kind)
        _index(client, name, kind)
        client.load_collection(name, timeout=60)
        seen = facts(client, name, database=database)
        found = _read(client, name, kind)
    except json.JSONDecodeError as unreadable:
        return Outcome(NOT_KEPT, f"pymilvus cannot read it back: {unreadable}")
    except (MilvusException, ParamError) as refusal:
        return Outcome(REFUSED, str(refusal))
    if kind.seen(seen) != kind.wanted:
        return Outcome(NOT_KEPT, f"asked for {kind.wanted!r}, and it says {kind.seen(seen)!r}")
    if not _holds(kind, found):
        return Outcome(NOT_KEPT, f"gives back {found!r}")
    return None


async def restored(
    place: Place, kind: Kind, name: str, backup_id: str, before: tuple[Facts, dict[Any, Row]], database: str
) -> Outcome:
    """Restores a backup to a place that has no such collection, and holds the result against what was backed up."""
    if kind.database and database not in place.client().list_databases():
        place.client().create_database(database)
    async with place.manager(database) as manager:
        try:
            result = await manager.restore_backup(backup_id, name, RestoreParams(load_after_restore=True))
        except SchemaIncompatibleError as refusal:
            reasons = [] if refusal.incompatibilities else ["refused without a reason"]
            return Outcome(INCOMPATIBLE, str(refusal), reasons)
        except Exception as error:  # noqa: BLE001 - told beside the kind
            return Outcome("failed", repr(error), [f"the restore raised {error!r}"])
    if not result.success and kind.rows_refused and "inserting into" in str(result.error_message):
        return Outcome(ROWS_REFUSED, str(result.error_message))
    if not result.success:
        return Outcome("failed", str(result.error_message), [f"the restore failed: {result.error_message}"])
    problems = [] if result.verification_passed else ["the restore was not proven"]
    client = place.client(database)
    seen, rows = facts(client, name, database=database), _read(client, name, kind)
    if rows != before[1]:
        problems.append(f"other rows than before: {rows!r} instead of {before[1]!r}")
    changed = sorted(difference(before[0], seen))
    if changed and not result.warnings:
        problems.append(f"changed without a warning: {changed}")
    lost = kind.seen(seen) != kind.seen(before[0])
    return Outcome(WARNED if lost else YES, f"{changed} {result.warnings}", problems)


def difference(before: Any, after: Any, path: str = "") -> Iterable[str]:
    """The places where two descriptions differ."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted({*before, *after}):
            yield from difference(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif before != after:
        yield f"{path}: {before!r} → {after!r}"


async def try_kind(kind: Kind, source: Place, other: Place | None) -> tuple[Outcome, Outcome]:
    """What becomes of a kind on one server, and of its backup on another."""
    if source.title in kind.untried:
        return Outcome(UNTRIED), Outcome(NOTHING)
    digest = hashlib.md5(f"{kind.group}{kind.label}".encode()).hexdigest()[:10]
    name, database = f"kind_{digest}", f"base_{digest}" if kind.database else "default"
    for place in filter(None, (source, other)):  # what a run left that failed in the middle
        await asyncio.to_thread(_drop, place, kind, name, database)
    failed = await asyncio.to_thread(prepare, source, kind, name, database)
    if failed is not None:
        await asyncio.to_thread(_drop, source, kind, name, database)
        return failed, Outcome(NOTHING)
    client = source.client(database)
    before = await asyncio.to_thread(lambda: (facts(client, name, database=database), _read(client, name, kind)))
    async with source.manager(database) as manager:
        try:
            backup = await manager.create_backup(name)
            backup.raise_for_error()
        except Exception as error:  # noqa: BLE001 - told beside the kind
            return Outcome("failed", repr(error), [f"the backup failed: {error!r}"]), Outcome(NOTHING)
    await asyncio.to_thread(_drop, source, kind, name, database)
    here = await restored(source, kind, name, backup.backup_id, before, database)
    await asyncio.to_thread(_drop, source, kind, name, database)
    if other is None:
        return here, Outcome(NOTHING)
    there = await restored(other, kind, name, backup.backup_id, before, database)
    await asyncio.to_thread(_drop, other, kind, name, database)
    return here, there


def _drop(place: Place, kind: Kind, name: str, database: str) -> None:
    if database not in place.client().list_databases():
        return
    client = place.client(database)
    if client.has_collection(name):
        if kind.alias:
            client.drop_alias(f"{name}_alias")
        client.drop_collection(name)
    if kind.database:
        client.drop_database(database)


async def table(kinds: Sequence[Kind], columns: Mapping[str, tuple[Place, Place | None, str]]) -> tuple[str, list[str]]:
    """The Markdown table of all kinds, and what went wrong.

    Each column names a place to make a kind on, and another to restore its backup on too, with the title of the
    column for that.
    """
    gate = asyncio.Semaphore(AT_ONCE)
    problems: list[str] = []

    async def cells(kind: Kind, column: str) -> dict[str, str]:
        source, other, title = columns[column]
        async with gate:
            here, there = await try_kind(kind, source, other)
        for where, outcome in ((column, here), (title, there)):
            problems.extend(f"{kind.group}, {kind.label}, {where}: {problem}" for problem in outcome.problems)
        return {column: here.cell, **({title: there.cell} if other else {})}

    rows = await asyncio.gather(*(_row(kind, columns, cells) for kind in kinds))
    titles = [*columns, *(title for _, other, title in columns.values() if other)]
    return _markdown(titles, rows), problems


async def _row(kind: Kind, columns: Iterable[str], cells: Callable[..., Any]) -> tuple[Kind, dict[str, str]]:
    found: dict[str, str] = {}
    for column in columns:  # one after the other: the same collection's name in places that restore to each other
        found.update(await cells(kind, column))
    return kind, found


def _markdown(titles: Sequence[str], rows: Iterable[tuple[Kind, dict[str, str]]]) -> str:
    lines: list[str] = []
    group = ""
    for kind, cells in rows:
        if kind.group != group:
            group = kind.group
            lines += ["", f"| {group} | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
        lines.append(f"| {kind.label} | {' | '.join(cells[title] for title in titles)} |")
    return "\n".join(lines).strip() + "\n"
