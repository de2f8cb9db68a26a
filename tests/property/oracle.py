"""What a server shows, by pymilvus, and what files hold, by pyarrow, in one form that can be compared.

Nothing of Milvault is in it, but the reader that was written from docs/format.md alone, which also recomputes digests.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pymilvus import MilvusClient

from tests.docs import format_reader
from tests.property.collections import EPOCH, INDEXES, Drawn
from tests.recipes import Row, simple

WHERE = "·partition"
"""The name under which a row's partition is kept beside its values."""


def make(client: MilvusClient, name: str, drawn: Drawn) -> None:
    """Makes the collection and loads it."""
    client.create_collection(name, schema=drawn.schema(), num_shards=1, consistency_level="Strong")
    for partition in drawn.partitions:
        client.create_partition(name, partition)
    batches: dict[tuple[str, frozenset[str]], list[Row]] = {}
    for at, place in enumerate(drawn.places):
        batches.setdefault((place, drawn.omitted[at]), []).append(drawn.sent(at))
    for (place, _), rows in batches.items():
        client.insert(name, rows, partition_name=place or None)
    params = client.prepare_index_params()
    for one in drawn.fields:
        if one["dtype"] in INDEXES:
            params.add_index(one["name"], **INDEXES[one["dtype"]])
    client.create_index(name, params, sync=False)  # pymilvus would sleep half a second for each
    client.load_collection(name)


def shown(client: MilvusClient, name: str, drawn: Drawn) -> dict[Any, Row]:
    """All rows that the server shows, by key, each with its partition where there are several."""
    rows: dict[Any, Row] = {}
    for partition in ["_default", *drawn.partitions] if drawn.partitions else [None]:
        found = client.query(
            name,
            filter="",
            limit=1000,
            output_fields=["*"],
            partition_names=[partition] if partition else None,
            consistency_level="Strong",
        )
        for row in found:
            key = row[drawn.key]
            assert key not in rows, f"the server shows {key!r} twice"
            rows[key] = comparable(drawn, dict(row), partition)
    return rows


def meant(drawn: Drawn) -> dict[Any, Row]:
    """What the server has to show of a collection that was just made."""
    places = [place or None for place in drawn.places]
    return {row[drawn.key]: comparable(drawn, row, place) for row, place in zip(drawn.rows, places, strict=True)}


def filed(folder: str | Path, drawn: Drawn) -> dict[Any, Row]:
    """All rows of a backup, once its every promise is checked."""
    opened = format_reader.read(Path(folder))
    rows: dict[Any, Row] = {}
    jsons = [one["name"] for one in drawn.fields if one["dtype"] == "JSON"]
    for partition, tables in opened.tables.items():
        for table in tables:
            for row in table.to_pylist():
                for name in jsons:
                    row[name] = None if row[name] is None else json.loads(row[name])
                extra = row.pop("$meta", None) if drawn.dynamic else None
                row.update(json.loads(extra or "{}"))
                assert row[drawn.key] not in rows
                rows[row[drawn.key]] = comparable(drawn, row, partition if drawn.partitions else None)
    return rows


def comparable(drawn: Drawn, row: Mapping[str, Any], partition: str | None) -> Row:
    """A row whose floats are their bits, and whose other values are plain."""
    types = {one["name"]: one["dtype"] for one in drawn.fields}
    values = {name: simple(plain(types.get(name, ""), value)) for name, value in row.items()}
    return {**values, WHERE: partition}


def plain(data_type: str, value: Any) -> Any:
    """A value in one form, whoever read it."""
    if value is None:
        return None
    if data_type == "TIMESTAMPTZ":
        if isinstance(value, str):
            value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
        return value if isinstance(value, int) else (value - EPOCH) // datetime.timedelta(microseconds=1)
    if data_type == "SPARSE_FLOAT_VECTOR" and "indices" in value:
        value = dict(zip(value["indices"], value["values"], strict=True))
    if data_type == "SPARSE_FLOAT_VECTOR":
        return {index: float(value[index]) for index in sorted(value)}
    if data_type == "FLOAT16_VECTOR":
        value = value[0] if isinstance(value, list) and len(value) == 1 and isinstance(value[0], bytes) else value
        return np.frombuffer(value, np.float16) if isinstance(value, bytes) else np.array(value, np.float16)
    if data_type == "BINARY_VECTOR":
        return b"".join(value) if isinstance(value, list) else bytes(value)
    return value
