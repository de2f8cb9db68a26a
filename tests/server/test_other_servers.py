"""From one kind of server to the other: what is refused beforehand, and what is changed and said."""

from __future__ import annotations

import pytest
from pymilvus import DataType, FieldSchema

from milvault import RestoreParams, SchemaIncompatibleError
from tests.recipes import Recipe, create, expected, key_field, plain, read_all, vector_field, vector_of

pytestmark = pytest.mark.server


async def test_every_reason_is_told_and_nothing_is_made(lite, server, connect, name):
    fields = [
        key_field(),
        FieldSchema("maybe", DataType.INT64, nullable=True),
        FieldSchema("at", DataType.TIMESTAMPTZ),
        FieldSchema("where", DataType.GEOMETRY),
        FieldSchema("sparse", DataType.SPARSE_FLOAT_VECTOR),
        vector_field(),
    ]
    row = {"maybe": None, "at": "2026-01-02T03:04:05Z", "where": "POINT (1 2)", "sparse": {1: 1.0}}
    indexes = {"sparse": {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"}}
    recipe = Recipe(fields, [{"id": at, "vector": vector_of(at), **row} for at in range(10)], indexes=indexes)
    create(lite.client, name, recipe)
    before = server.client.list_collections()
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    async with connect(server) as manager:
        with pytest.raises(SchemaIncompatibleError) as refusal:
            await manager.restore_backup(backup.backup_id, name)
    reasons = refusal.value.incompatibilities
    for words in ("vector field", "'sparse'", "'at'", "'where'", "'maybe'"):
        assert any(words in reason for reason in reasons), (words, reasons)
    assert server.client.list_collections() == before


async def test_a_name_that_a_server_does_not_take_is_refused_before_any_row(lite, server, connect, name):
    name = f"{name}-of-lite"
    recipe = plain(10)
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    async with connect(server) as manager:
        with pytest.raises(SchemaIncompatibleError, match="target_collection_name"):
            await manager.restore_backup(backup.backup_id, name)
        other = name.replace("-", "_")
        params = RestoreParams(target_collection_name=other, load_after_restore=True)
        (await manager.restore_backup(backup.backup_id, name, params)).raise_for_error()
    assert read_all(server.client, other) == expected(recipe)


async def test_strings_as_long_as_lite_counts_them_fit_a_server(lite, server, connect, name):
    # Milvus Lite counts characters, Milvus bytes.
    fields = [
        key_field(),
        FieldSchema("text", DataType.VARCHAR, max_length=10),
        FieldSchema("words", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=4, max_length=10),
        vector_field(),
    ]
    rows = [{"id": at, "text": "🐍" * 10, "words": ["ä" * 10] * (at % 4), "vector": vector_of(at)} for at in range(12)]
    recipe = Recipe(fields, rows)
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
        backup.raise_for_error()
    assert any("'words'" in warning and "max_length" in warning for warning in backup.warnings)
    async with connect(server) as manager:
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        restored.raise_for_error()
    assert any("'text' (40)" in warning for warning in restored.warnings)
    assert any("'words' (max_length 65535)" in warning for warning in restored.warnings)
    assert read_all(server.client, name) == expected(recipe)


async def test_an_indexs_build_parameters_survive_lite(server, lite, connect, name):
    definition = {"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 12, "efConstruction": 50}}
    base = plain(10)
    recipe = Recipe(base.fields, base.rows, indexes={"vector": definition})
    create(server.client, name, recipe)
    before = server.client.describe_index(name, "vector")
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
    server.client.drop_collection(name)
    async with connect(lite) as manager:
        (await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))).raise_for_error()
        through_lite = await manager.create_backup(name)
    async with connect(server) as manager:
        (await manager.restore_backup(through_lite.backup_id, name)).raise_for_error()
    after = server.client.describe_index(name, "vector")
    keys = ("index_type", "metric_type", "M", "efConstruction")
    assert {key: after.get(key) for key in keys} == {key: before.get(key) for key in keys}


async def test_json_that_lite_would_write_otherwise_keeps_its_text(server, lite, connect, name):
    fields = [key_field(), FieldSchema("json", DataType.JSON), vector_field()]
    values = [{"small": 1e-9, "large": 1e300, "big": 2**60, "deep": {"list": [None, True, "\\u2028"]}}, {}]
    rows = [{"id": at, "json": values[at % 2], "vector": vector_of(at)} for at in range(10)]
    create(server.client, name, Recipe(fields, rows))
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
    async with connect(lite) as manager:
        restored = await manager.restore_backup(backup.backup_id, name, RestoreParams(load_after_restore=True))
        restored.raise_for_error()
        back = await manager.create_backup(name)
        back.raise_for_error()
    assert read_all(lite.client, name) == expected(Recipe(fields, rows))
    found = lite.client.query(name, filter='json["small"] < 1e-8', output_fields=["id"])
    assert {row["id"] for row in found} == {0, 2, 4, 6, 8}
