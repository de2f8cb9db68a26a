"""docs/format.md describes the format: a reader written from it alone reads a backup and agrees with every promise."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from pymilvus import DataType, FieldSchema

from milvault import BackupParams
from tests.docs import format_reader
from tests.recipes import RECIPES, Recipe, create, key_field, partitioned, vector_of
from tests.server.test_other_types import VECTORS, create_vectors, everything

PAGE = Path(__file__).parents[2] / "docs" / "format.md"


MAKERS = {**RECIPES, "everything": everything}


@pytest.mark.embedded
@pytest.mark.parametrize("recipe_name", ["everything", "awkward_strings", "partitioned", "partition_key"])
async def test_a_reader_written_from_the_page_agrees_with_every_digest(lite, connect, name, recipe_name):
    recipe = MAKERS[recipe_name]()
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    backup.raise_for_error()
    opened = format_reader.read(Path(backup.storage_path))
    assert opened.manifest["row_count"] == len(recipe.rows)
    keys = {
        key for tables in opened.tables.values() for table in tables for key in table.column(recipe.key).to_pylist()
    }
    assert keys == {row[recipe.key] for row in recipe.rows}


@pytest.mark.embedded
@pytest.mark.parametrize("algorithm", ["MD5", "BLAKE2B"])
async def test_other_checksums_and_several_chunks_too(lite, connect, name, algorithm):
    rows = [{"id": key, "vector": vector_of(key, 512)} for key in range(1500)]
    fields = [key_field(), FieldSchema("vector", DataType.FLOAT_VECTOR, dim=512)]
    create(lite.client, name, Recipe(fields, rows))
    async with connect(lite, checksum_algorithm=algorithm) as manager:
        params = BackupParams(compression_enabled=False, chunk_size_mb=1, include_indexes=False)
        backup = await manager.create_backup(name, params)
    backup.raise_for_error()
    opened = format_reader.read(Path(backup.storage_path))
    assert sum(table.num_rows for table in opened.tables["_default"]) == 1500


@pytest.mark.server
@pytest.mark.parametrize("vector", VECTORS)
async def test_vectors_that_only_a_server_has(server, connect, name, vector):
    create_vectors(server.client, name, vector)
    async with connect(server) as manager:
        backup = await manager.create_backup(name)
    backup.raise_for_error()
    assert format_reader.read(Path(backup.storage_path)).manifest["row_count"] == 100


@pytest.mark.embedded
async def test_a_manifest_in_which_a_digit_changed_is_refused(lite, connect, name):
    create(lite.client, name, partitioned(30))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    manifest = Path(backup.storage_path) / "metadata.json"
    manifest.write_text(manifest.read_text().replace('"row_count": 30', '"row_count": 31'))
    with pytest.raises(AssertionError):
        format_reader.read(Path(backup.storage_path))


@pytest.mark.embedded
async def test_the_page_names_every_key_of_every_file(lite, connect, name):
    create(lite.client, name, everything())
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    folder = Path(backup.storage_path)
    words = set(re.findall(r"`([^`]+)`", PAGE.read_text(encoding="utf-8")))
    for file in ("metadata.json", "schema.json", "chunks.json", "checksums.json", "verification.json"):
        content = json.loads((folder / file).read_bytes())
        places = [content, *content.get("fields", []), *content.get("chunks", []), *content.get("functions", [])]
        if file == "checksums.json":
            places += list(content["files"].values())
        missing = {key for place in places for key in place if key not in words}
        assert not missing, f"docs/format.md does not say what {missing} in {file} is"


def test_the_examples_of_encodings_on_the_page_are_right():
    text = PAGE.read_text(encoding="utf-8")
    row = re.search(r"^    row +([0-9a-f ]+(?:\n {8,}[0-9a-f ]+)*)$", text, re.MULTILINE)
    digest = re.search(r"^    digest +([0-9a-f]{32})$", text, re.MULTILINE)
    assert row, "the page shows no encoded row"
    assert digest, "the page shows no digest"
    encoded = bytes.fromhex("".join(row[1].split()))
    assert format_reader.xxhash.xxh3_128_hexdigest(encoded) == digest[1]
    assert format_reader.json_value('{"b":[-7,-1.50,"x"],"a":false}')[1].hex() in "".join(text.split())
    assert hashlib.sha256(b"").hexdigest() not in text, "an example of nothing"
