"""Types that one kind of server has and the other has not: null values and sparse vectors, binary and half floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pymilvus import CollectionSchema, DataType, FieldSchema, Function, FunctionType, MilvusClient

from milvault import RestoreParams
from tests.backup_files import data_files
from tests.recipes import (
    Recipe,
    Row,
    create,
    dynamic,
    every_array,
    every_scalar,
    key_field,
    read_all,
    vector_field,
    vector_of,
)


def everything() -> Recipe:
    """Every type that Milvus Lite has, in one collection, with null values, sparse vectors and a dynamic field."""
    scalars, arrays, extras = every_scalar(90), every_array(90), dynamic(90).rows
    fields = {field.name: field for recipe in (scalars, arrays) for field in recipe.fields}
    others = [
        FieldSchema("maybe_number", DataType.INT32, nullable=True),
        FieldSchema("maybe_text", DataType.VARCHAR, max_length=32, nullable=True),
        FieldSchema("maybe_json", DataType.JSON, nullable=True),
        FieldSchema("sparse", DataType.SPARSE_FLOAT_VECTOR),
    ]

    def row(at: int) -> Row:
        is_null = at % 3 == 0
        return {
            **arrays.rows[at],
            **scalars.rows[at],
            "maybe_number": None if is_null else at,
            "maybe_text": None if is_null else f"é{at}",
            "maybe_json": None if is_null else {"at": at},
            "sparse": {at + 7: 0.5, 4_000_000: 1.25, at: 2.0},
            "colour": extras[at].get("colour", "none"),
        }

    indexes = {"sparse": {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"}}
    return Recipe([*fields.values(), *others], [row(at) for at in range(90)], dynamic=True, indexes=indexes)


VECTORS: dict[str, tuple[dict[str, str], Callable[[int], Any]]] = {
    "BINARY_VECTOR": ({"index_type": "BIN_FLAT", "metric_type": "HAMMING"}, lambda at: bytes([at, 255 - at])),
    "FLOAT16_VECTOR": ({"index_type": "FLAT", "metric_type": "L2"}, lambda at: np.full(16, at / 3, np.float16)),
}
"""Vectors that Milvus 2.3.5 has and Milvus Lite has not: an index, and a value of 16 dimensions."""


def create_vectors(client: MilvusClient, name: str, vector: str) -> None:
    """A hundred rows of int64 keys and vectors of that type."""
    index, value = VECTORS[vector]
    schema = CollectionSchema([key_field(), FieldSchema("vector", DataType[vector], dim=16)])
    client.create_collection(name, schema=schema, num_shards=1)
    client.insert(name, [{"id": at, "vector": value(at)} for at in range(100)])
    params = client.prepare_index_params()
    params.add_index("vector", **index)
    client.create_index(name, params)
    client.load_collection(name)


async def replace_by_its_backup(client: MilvusClient, manager: Any, name: str) -> None:
    before = read_all(client, name)
    backup = await manager.create_backup(name)
    backup.raise_for_error()
    restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(drop_existing=True))
    restored.raise_for_error()
    assert restored.verification_passed is True
    assert read_all(client, name) == before


@pytest.mark.embedded
async def test_null_values_and_sparse_vectors_come_back_on_lite(lite, connect, name):
    create(lite.client, name, everything())
    async with connect(lite) as manager:
        await replace_by_its_backup(lite.client, manager, name)


@pytest.mark.embedded
async def test_null_values_and_times_go_into_lite_by_replacing_rows(lite, connect, name):
    fields = [
        key_field(),
        FieldSchema("number", DataType.INT64, nullable=True),
        FieldSchema(
            "words", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=4, max_length=8, nullable=True
        ),
        FieldSchema("json", DataType.JSON, nullable=True),
        FieldSchema("moment", DataType.TIMESTAMPTZ, nullable=True),
        FieldSchema("always", DataType.TIMESTAMPTZ),
        vector_field(4),
    ]

    def row(key: int) -> Row:
        some = {
            "number": key,
            "words": ["ä"] * (key % 4),
            "json": {"key": key},
            "moment": f"1969-12-31T23:59:{key % 60:02}.0000{key % 60:02}Z",
        }
        # some of the batches of ten have nothing but nulls
        values = some if key % 3 and not 20 <= key < 30 else dict.fromkeys(some)
        return {"id": key, **values, "always": "9999-12-31T23:59:59.999999Z", "vector": vector_of(key, 4)}

    create(lite.client, name, Recipe(fields, [row(key) for key in range(90)]))
    before = read_all(lite.client, name)
    assert before[25]["moment"] is None
    assert before[61]["moment"] == "1969-12-31T23:59:01.000001Z"
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        other = {"number": 7, "words": ["x"], "json": [1], "moment": "2026-01-01T00:00:00Z"}
        lite.client.upsert(name, [{**row(key), **other} for key in range(0, 90, 2)])
        assert read_all(lite.client, name) != before
        params = RestoreParams(into_existing=True, on_conflict="OVERWRITE", batch_rows=10)
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
    assert read_all(lite.client, name) == before


@pytest.mark.server
@pytest.mark.parametrize("vector", VECTORS)
async def test_binary_and_half_vectors_come_back_on_a_server(server, connect, name, vector):
    create_vectors(server.client, name, vector)
    async with connect(server) as manager:
        await replace_by_its_backup(server.client, manager, name)


@pytest.mark.embedded
async def test_what_a_bm25_function_makes_is_made_anew_and_can_be_searched(lite, connect, name):
    text = FieldSchema("text", DataType.VARCHAR, max_length=100, enable_analyzer=True)
    words = FieldSchema("words", DataType.SPARSE_FLOAT_VECTOR)
    function = Function("bm25", FunctionType.BM25, ["text"], ["words"])
    schema = CollectionSchema([key_field(), text, words], functions=[function])
    lite.client.create_collection(name, schema=schema)
    lite.client.insert(name, [{"id": at, "text": f"number{at} of many"} for at in range(50)])
    params = lite.client.prepare_index_params()
    params.add_index("words", index_type="SPARSE_INVERTED_INDEX", metric_type="BM25")
    lite.client.create_index(name, params)
    lite.client.load_collection(name)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        backup.raise_for_error()
        assert pq.read_schema(data_files(backup.storage_path)[0]).names == ["id", "text"]
        lite.client.drop_collection(name)
        (await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))).raise_for_error()
    (hits,) = lite.client.search(name, data=["number7"], anns_field="words", limit=1)
    assert hits[0]["id"] == 7


@pytest.mark.parametrize("flushed", [False, True])
async def test_a_nan_is_proven_though_the_server_changes_its_bits(server, connect, name, flushed):
    # Milvus 2.3.5 gives back the bits that were inserted until it flushes, and Go's own NaN from then on.
    fields = [
        FieldSchema("id", DataType.INT64, is_primary=True, auto_id=True),
        FieldSchema("number", DataType.DOUBLE),
        FieldSchema("vector", DataType.FLOAT_VECTOR, dim=2),
    ]
    server.client.create_collection(name, schema=CollectionSchema(fields))
    numbers = [1.0, float("nan"), 0.5, -float("nan")]
    server.client.insert(name, [{"number": number, "vector": [0.0, 1.0]} for number in numbers])
    if flushed:
        server.client.flush(name)
    index = server.client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="L2")
    server.client.create_index(name, index)
    server.client.load_collection(name)
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        params = RestoreParams(drop_existing=True, load_after_restore=True)
        restored = await manager.restore_backup(backup.backup_id, name, params)
        assert restored.success, restored.error_message
        assert restored.verification_passed
    found = server.client.query(name, filter="", limit=10, output_fields=["number"], consistency_level="Strong")
    assert sorted(str(row["number"]) for row in found) == ["0.5", "1.0", "nan", "nan"]
