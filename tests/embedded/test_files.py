"""A backup's files: others open them, hashlib agrees with their checksums, settings show in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from milvault import BackupParams
from tests.backup_files import READERS, data_files, json_file, rows_of
from tests.conftest import files_under
from tests.recipes import RECIPES, Recipe, create, expected, partitioned, plain

HASHES = {
    "SHA256": lambda content: hashlib.sha256(content).hexdigest(),
    "MD5": lambda content: hashlib.md5(content).hexdigest(),
    "BLAKE2B": lambda content: hashlib.blake2b(content).hexdigest(),
}


@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
@pytest.mark.parametrize("recipe_name", RECIPES)
async def test_pyarrow_duckdb_and_polars_read_the_same_values(lite, connect, name, recipe_name, compressed):
    recipe = RECIPES[recipe_name]()
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name, BackupParams(compression_enabled=compressed))
        assert backup.success, backup.error_message
    for reader in READERS:
        assert rows_of(backup.storage_path, recipe, reader) == expected(recipe), reader


async def test_columns_have_the_types_that_milvus_gave_them(lite, connect, name):
    recipe = Recipe([*RECIPES["every_scalar"]().fields], RECIPES["every_scalar"]().rows, dynamic=True)
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    (file,) = data_files(backup.storage_path)
    schema = pq.read_schema(file)
    assert {field.name: str(field.type) for field in schema if field.name not in ("vector", "json", "$meta")} == {
        "id": "int64",
        "bool": "bool",
        "int8": "int8",
        "int16": "int16",
        "int32": "int32",
        "int64": "int64",
        "float": "float",
        "double": "double",
        "varchar": "string",
    }
    assert pa.types.is_fixed_size_list(schema.field("vector").type)
    assert schema.field("vector").type.list_size == 8
    assert schema.field("vector").type.value_type == pa.float32()
    for column in ("json", "$meta"):
        assert schema.field(column).metadata.get(b"ARROW:extension:name", b"arrow.json") == b"arrow.json"
    assert all(b"PARQUET:field_id" in field.metadata for field in schema)


async def test_array_columns_have_typed_elements(lite, connect, name):
    recipe = RECIPES["every_array"]()
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    (file,) = data_files(backup.storage_path)
    schema = pq.read_schema(file)
    elements = {name: str(schema.field(name).type.value_type) for name in ("flags", "tiny", "large", "ratios", "words")}
    assert elements == {"flags": "bool", "tiny": "int8", "large": "int64", "ratios": "float", "words": "string"}


async def test_other_tools_can_compute_on_the_columns(lite, connect, name):
    create(lite.client, name, plain(100))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    (file,) = data_files(backup.storage_path)
    with duckdb.connect() as connection:
        total = connection.execute("SELECT sum(id), count(vector[1]) FROM read_parquet($1)", [str(file)]).fetchone()
    assert total == (4950, 100)
    frame = pl.scan_parquet(file).filter(pl.col("id") > 90).select(pl.col("id").sum(), pl.len()).collect()
    assert frame.rows() == [(sum(range(91, 100)), 9)]


@pytest.mark.parametrize("compressed", [True, False], ids=["zstd", "plain"])
async def test_compression_is_as_asked(lite, connect, name, compressed):
    create(lite.client, name, RECIPES["every_scalar"]())
    async with connect(lite) as manager:
        params = BackupParams(compression_enabled=compressed, compression_level=9)
        backup = await manager.create_backup(name, params)
    assert backup.metadata.compression_enabled is compressed
    for file in data_files(backup.storage_path):
        group = pq.ParquetFile(file).metadata.row_group(0)
        codecs = {group.column(at).compression for at in range(group.num_columns)}
        assert codecs == ({"ZSTD"} if compressed else {"UNCOMPRESSED"})


@pytest.mark.parametrize("algorithm", HASHES)
async def test_hashlib_agrees_with_every_checksum(lite, connect, name, algorithm):
    create(lite.client, name, partitioned())
    async with connect(lite, checksum_algorithm=algorithm) as manager:
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        verification = await manager.verify_backup(backup.backup_id, name)
    assert verification.success
    folder = Path(backup.storage_path)
    sums = json_file(folder, "checksums.json")
    assert sums["algorithm"] == algorithm
    content = files_under(folder)
    unlisted = {"metadata.json", "checksums.json", "verification.json"}
    assert set(sums["files"]) == set(content) - unlisted
    for file, entry in sums["files"].items():
        assert entry["bytes"] == len(content[file])
        assert entry["checksum"] == HASHES[algorithm](content[file])
    manifest = json.loads(content["metadata.json"])
    assert manifest["checksum_algorithm"] == algorithm
    assert manifest["checksum"] == HASHES[algorithm](content["checksums.json"])
    assert verification.files_verified >= len(sums["files"])


async def test_the_manifest_vouches_for_itself(lite, connect, name):
    create(lite.client, name, plain(10))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    content = Path(backup.storage_path, "metadata.json").read_bytes()
    kind, _, digest = json.loads(content)["self"].partition(":")
    assert kind == "sha256"
    at = content.index(digest.encode())
    assert hashlib.sha256(content[:at] + content[at + len(digest) :]).hexdigest() == digest


async def test_chunks_have_about_the_size_asked_for(lite, connect, name):
    recipe = plain(20_000, dim=64)  # 5 MiB of vectors
    create(lite.client, name, recipe)
    async with connect(lite) as manager:
        backup = await manager.create_backup(name, BackupParams(chunk_size_mb=1))
        assert backup.success, backup.error_message
    files = data_files(backup.storage_path)
    assert 4 <= len(files) <= 8
    chunks = json_file(backup.storage_path, "chunks.json")["chunks"]
    assert sorted(chunk["file"] for chunk in chunks) == [f"data/{file.name}" for file in files]
    assert sum(chunk["rows"] for chunk in chunks) == 20_000
    assert all(chunk["bytes"] < 2 * 2**20 for chunk in chunks)
    assert all(chunk["lowest"] <= chunk["highest"] for chunk in chunks)
    assert set(rows_of(backup.storage_path, recipe)) == set(range(20_000))


async def test_index_definitions_are_left_out_where_not_wanted(lite, connect, name):
    create(lite.client, name, plain(10))
    async with connect(lite) as manager:
        with_them = await manager.create_backup(name)
        without = await manager.create_backup(name, BackupParams(include_indexes=False))
    (index,) = json_file(with_them.storage_path, "indexes/vector.json")
    assert index["field"] == "vector"
    assert not Path(without.storage_path, "indexes").exists()


async def test_neither_secrets_nor_values_reach_the_manifest(lite, connect, name):
    base = plain(5)
    rows = [{**row, "note": "a very private value"} for row in base.rows]
    create(lite.client, name, Recipe(base.fields, rows, dynamic=True))
    async with connect(lite) as manager:
        backup = await manager.create_backup(name)
    for file, content in files_under(Path(backup.storage_path)).items():
        if not file.startswith("data/"):
            assert b"private" not in content, file
