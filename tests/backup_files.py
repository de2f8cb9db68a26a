"""A backup's files as others see them: read with pyarrow, DuckDB and polars, never with Milvault."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow.parquet as pq

from tests.recipes import Recipe, Row, simple


def data_files(backup: str | Path) -> list[Path]:
    """The Parquet files that hold the rows."""
    files = sorted((Path(backup) / "data").glob("*.parquet"))
    assert files, f"no data files in {backup}"
    return files


def by_pyarrow(file: Path) -> list[Row]:
    """All rows of a file, as pyarrow reads them."""
    return pq.read_table(file).to_pylist()


def by_duckdb(file: Path) -> list[Row]:
    """All rows of a file, as DuckDB reads them."""
    with duckdb.connect() as connection:
        cursor = connection.execute("SELECT * FROM read_parquet($1)", [str(file)])
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def by_polars(file: Path) -> list[Row]:
    """All rows of a file, as polars reads them."""
    return pl.read_parquet(file).to_dicts()


READERS: dict[str, Callable[[Path], list[Row]]] = {"pyarrow": by_pyarrow, "duckdb": by_duckdb, "polars": by_polars}


def rows_of(backup: str | Path, recipe: Recipe, reader: str = "pyarrow") -> dict[Any, Row]:
    """The backup's rows by key, comparable with `tests.recipes.expected`: JSON parsed, `$meta` spread out."""
    found: dict[Any, Row] = {}
    json_fields = [entry.name for entry in recipe.fields if entry.dtype.name == "JSON"]
    for file in data_files(backup):
        for row in READERS[reader](file):
            values = dict(row)
            for name in json_fields:
                values[name] = json.loads(values[name])
            values.update(json.loads(values.pop("$meta", None) or "{}"))
            assert values[recipe.key] not in found, f"key {values[recipe.key]!r} comes twice"
            found[values[recipe.key]] = simple(values)
    return found


def json_file(backup: str | Path, name: str) -> Any:
    """One of the backup's JSON files."""
    return json.loads((Path(backup) / name).read_text(encoding="utf-8"))


def leftovers(root: Path) -> list[str]:
    """Whatever is in a repository beside whole backups: locks, journals, half-written and half-deleted ones."""
    while root.exists():
        with contextlib.suppress(FileNotFoundError):  # a folder went while it was walked: look again
            return _left(root)
    return []


def _left(root: Path) -> list[str]:
    whole = {
        manifest.parent
        for manifest in root.rglob("metadata.json")
        if json.loads(manifest.read_text(encoding="utf-8")).get("state") == "COMPLETED"
    }
    files = [path for path in root.rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(root)) for path in files if not whole.intersection(path.parents))
