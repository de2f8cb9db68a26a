"""Collections for tests: made and read back with pymilvus alone, so that nothing of Milvault vouches for itself."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from benches.compare.data import ready
from pymilvus import CollectionSchema, DataType, FieldSchema, MilvusClient

Row = dict[str, Any]

AWKWARD_KEYS = [
    "",
    " ",
    "plain",
    'double "quotes"',
    "single 'quotes'",
    "back\\slash",
    "trailing\\",
    "nul\x00inside",
    "new\nline",
    "tab\tand\rreturn",
    "umlaut äöü",
    "emoji 🐍🦀",
    "combined e\u0301",
    "\U0010ffff highest",
    "%wild_card%",
    "{}[]()",
    "null",
    "0",
]
"""Keys that break quoting, ordering or an assumption about them; the empty one is the trap of `key > ""`."""

ARRAY_ELEMENTS = {
    "flags": DataType.BOOL,
    "tiny": DataType.INT8,
    "small": DataType.INT16,
    "medium": DataType.INT32,
    "large": DataType.INT64,
    "ratios": DataType.FLOAT,
    "precise": DataType.DOUBLE,
    "words": DataType.VARCHAR,
}
"""An array field for each element type that arrays may have."""


@dataclass(frozen=True)
class Recipe:
    """What a collection is to be: its schema and its rows. `partition_of` names each row's partition."""

    fields: Sequence[FieldSchema]
    rows: Sequence[Row]
    dynamic: bool = False
    partition_of: Callable[[Row], str] | None = None
    description: str = ""
    indexes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shards: int = 1
    spread: int | None = None
    """Over how many partitions a partition key spreads the rows; None for as many as the server makes by itself."""

    @property
    def key(self) -> str:
        """The name of the primary key."""
        return next(entry.name for entry in self.fields if entry.is_primary)

    @property
    def vector(self) -> str:
        """The name of the vector field."""
        return next(entry.name for entry in self.fields if entry.dtype == DataType.FLOAT_VECTOR)


def key_field(data_type: DataType = DataType.INT64, name: str = "id", **more: Any) -> FieldSchema:
    """A primary key that the client provides."""
    if data_type == DataType.VARCHAR:
        more = {"max_length": 512, **more}
    return FieldSchema(name, data_type, is_primary=True, **{"auto_id": False, **more})


def vector_field(dim: int = 8, name: str = "vector") -> FieldSchema:
    """A float vector."""
    return FieldSchema(name, DataType.FLOAT_VECTOR, dim=dim)


def vector_of(seed: int, dim: int = 8) -> list[float]:
    """A vector whose numbers float32 holds exactly."""
    return [float(number) for number in np.random.default_rng(abs(seed)).standard_normal(dim).astype(np.float32)]


def plain(count: int, *, dim: int = 8, start: int = 0, step: int = 1) -> Recipe:
    """int64 keys and vectors; the simplest collection."""
    keys = range(start, start + count * step, step)
    return Recipe([key_field(), vector_field(dim)], [{"id": key, "vector": vector_of(key, dim)} for key in keys])


def awkward_strings(filler: int = 0) -> Recipe:
    """varchar keys with everything that breaks quoting, and `filler` ordinary ones between them."""
    keys = AWKWARD_KEYS + [f"filler-{number:07d}" for number in range(filler)]
    rows = [{"id": key, "text": key[::-1], "vector": vector_of(number)} for number, key in enumerate(keys)]
    random.Random(7).shuffle(rows)
    text = FieldSchema("text", DataType.VARCHAR, max_length=1024)
    return Recipe([key_field(DataType.VARCHAR), text, vector_field()], rows)


def every_scalar(count: int = 200) -> Recipe:
    """A field for each scalar type, at their limits in the first rows."""
    limits = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
    fields = [
        key_field(),
        FieldSchema("bool", DataType.BOOL),
        FieldSchema("int8", DataType.INT8),
        FieldSchema("int16", DataType.INT16),
        FieldSchema("int32", DataType.INT32),
        FieldSchema("int64", DataType.INT64),
        FieldSchema("float", DataType.FLOAT),
        FieldSchema("double", DataType.DOUBLE),
        FieldSchema("varchar", DataType.VARCHAR, max_length=2000),
        FieldSchema("json", DataType.JSON),
        vector_field(),
    ]
    rng = random.Random(1)

    def row(number: int) -> Row:
        low = number % 2 == 0
        whole = {
            name: (-(2 ** (bits - 1)) if low else 2 ** (bits - 1) - 1)
            if number < 2
            else rng.randrange(-(2 ** (bits - 1)), 2 ** (bits - 1))
            for name, bits in limits.items()
        }
        return {
            "id": number - count // 2,
            "bool": low,
            **whole,
            "float": float(np.float32([1.5e-45, 3.4e38, -0.0, 0.1][number % 4])),
            "double": [5e-324, 1.7e308, -0.0, 0.1][number % 4],
            "varchar": AWKWARD_KEYS[number % len(AWKWARD_KEYS)] if number % 3 else "x" * (number % 1999),
            "json": json_value(number),
            "vector": vector_of(number),
        }

    return Recipe(fields, [row(number) for number in range(count)])


def json_value(number: int) -> Any:
    """JSON of every sort, nested, with keys out of order and numbers whose text matters."""
    values: list[Any] = [
        {"b": number, "a": [1, 2.5, None, True, {"deep": "🐍"}]},
        {},
        {"text": 'quotes " and \\ and \n', "big": 2**53 + 1, "small": 1e-9},
        {"empty": "", "list": [], "null": None},
    ]
    return values[number % len(values)]


def every_array(count: int = 120) -> Recipe:
    """An array field for each element type; lengths from zero up."""
    fields: list[FieldSchema] = [key_field()]
    for name, element in ARRAY_ELEMENTS.items():
        more = {"max_length": 64} if element == DataType.VARCHAR else {}
        fields.append(FieldSchema(name, DataType.ARRAY, element_type=element, max_capacity=16, **more))
    fields.append(vector_field())

    def values(name: str, number: int) -> list[Any]:
        length = number % 9
        makers: dict[str, Callable[[int], Any]] = {
            "flags": lambda at: (number + at) % 3 == 0,
            "tiny": lambda at: (number * 7 + at) % 256 - 128,
            "small": lambda at: (number * 777 + at) % 65536 - 32768,
            "medium": lambda at: (number * 77_777_777 + at) % 2**32 - 2**31,
            "large": lambda at: (number * 7_777_777_777_777_777 + at) % 2**64 - 2**63,
            "ratios": lambda at: float(np.float32((number + at) / 7)),
            "precise": lambda at: (number + at) / 7,
            "words": lambda at: AWKWARD_KEYS[(number + at) % len(AWKWARD_KEYS)],
        }
        return [makers[name](at) for at in range(length)]

    rows = [
        {"id": number, **{name: values(name, number) for name in ARRAY_ELEMENTS}, "vector": vector_of(number)}
        for number in range(count)
    ]
    return Recipe(fields, rows)


def dynamic(count: int = 150) -> Recipe:
    """Rows with keys that are no field: some, others, none."""
    extras: list[Row] = [
        {"colour": "red", "size": 3},
        {"nested": {"a": [1, {"b": None}]}, "ünï": "🐍"},
        {},
        {"ratio": 0.1, "flag": True, "nothing": None},
    ]
    rows = [{"id": key, "vector": vector_of(key), **extras[key % len(extras)]} for key in range(count)]
    return Recipe([key_field(), vector_field()], rows, dynamic=True)


def partitioned(count: int = 300) -> Recipe:
    """Rows in `_default` and two named partitions."""
    base = plain(count)
    names = ["_default", "spring", "autumn"]
    return Recipe(base.fields, base.rows, partition_of=lambda row: names[row["id"] % 3])


def partition_key(count: int = 300, *, spread: int | None = 8) -> Recipe:
    """Rows that the server spreads over partitions by a field; by itself 2.3.5 makes 64, and takes long over each."""
    tenant = FieldSchema("tenant", DataType.VARCHAR, max_length=32, is_partition_key=True)
    rows = [{"id": key, "tenant": f"tenant-{key % 7}", "vector": vector_of(key)} for key in range(count)]
    return Recipe([key_field(), tenant, vector_field()], rows, spread=spread)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "plain": lambda: plain(500),
    "awkward_strings": lambda: awkward_strings(60),
    "every_scalar": every_scalar,
    "every_array": every_array,
    "dynamic": dynamic,
    "partitioned": partitioned,
    "partition_key": partition_key,
}
"""Collections that between them hold every type and arrangement that both servers know."""


def create(client: MilvusClient, name: str, recipe: Recipe, *, load: bool = True) -> None:
    """Makes the collection, with a FLAT index on its vector, and fills it. Every column is always sent."""
    schema = CollectionSchema(list(recipe.fields), enable_dynamic_field=recipe.dynamic, description=recipe.description)
    # One shard: a server spends a channel on each, and tests make many collections.
    spread = {"num_partitions": recipe.spread} if recipe.spread else {}
    client.create_collection(name, schema=schema, num_shards=recipe.shards, consistency_level="Strong", **spread)
    fill(client, name, recipe, recipe.rows)
    params = client.prepare_index_params()
    for field_name, index in {recipe.vector: {"index_type": "FLAT", "metric_type": "L2"}, **recipe.indexes}.items():
        params.add_index(field_name=field_name, **index)
    client.create_index(name, params)
    if load:
        client.load_collection(name)


def create_large(uri: str, name: str, rows: int, dim: int) -> None:
    """Dense int64 keys from 0 and random vectors, many of them, sent as ready-made requests: pymilvus is slow at it.

    What Milvus Lite takes is by the row: where bytes matter and not rows, make the rows wide.
    """
    ready(uri, name, rows, dim, settled=False)


def fill(client: MilvusClient, name: str, recipe: Recipe, rows: Iterable[Row]) -> None:
    """Inserts rows, each into its partition, in batches."""
    by_partition: dict[str, list[Row]] = {}
    for row in rows:
        by_partition.setdefault(recipe.partition_of(row) if recipe.partition_of else "", []).append(row)
    for partition, members in by_partition.items():
        if partition not in ("", "_default"):
            client.create_partition(name, partition)
        for start in range(0, len(members), 5000):
            client.insert(name, members[start : start + 5000], partition_name=partition or None)


def read_all(client: MilvusClient, name: str, *, partitions: Sequence[str] | None = None) -> dict[Any, Row]:
    """All rows by key, in one single query (pages can lose rows); at most 16,384 on a Milvus server."""
    key = next(entry["name"] for entry in client.describe_collection(name)["fields"] if entry.get("is_primary"))
    rows = client.query(
        name,
        filter="",
        limit=16_384,
        output_fields=["*"],
        partition_names=list(partitions) if partitions else None,
        consistency_level="Strong",
    )
    return {row[key]: simple(row) for row in rows}


def count(client: MilvusClient, name: str) -> int:
    """What the server counts; duplicates count."""
    answer = client.query(name, filter="", output_fields=["count(*)"], consistency_level="Strong")
    return int(answer[0]["count(*)"])


def simple(value: Any) -> Any:
    """The value in Python's own types, so that two of them can be compared; floats by their bits but for NaN."""
    if isinstance(value, float):
        return ("float", "nan" if math.isnan(value) else value.hex())
    if value is None or isinstance(value, bytes | str | int):
        return value
    if isinstance(value, Mapping):
        return {str(name): simple(inner) for name, inner in value.items()}
    if isinstance(value, np.generic):
        return simple(value.item())
    if isinstance(value, Iterable):
        values = list(value)
        if values and all(issubclass(kind, float | np.floating) for kind in set(map(type, values))):
            numbers = np.array(values, np.float64)  # a vector: at once, because they are most of what is compared
            numbers[np.isnan(numbers)] = np.nan
            return ("floats", numbers.tobytes())
        return [simple(inner) for inner in values]
    return value


def expected(recipe: Recipe, rows: Iterable[Row] | None = None) -> dict[Any, Row]:
    """What `read_all` has to give for the recipe's rows."""
    return {row[recipe.key]: simple(row) for row in (recipe.rows if rows is None else rows)}


def canonical_json(text: str | bytes) -> Any:
    """A JSON column's text as a value."""
    return json.loads(text)
