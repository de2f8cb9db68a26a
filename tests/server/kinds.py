"""Every kind of collection, one thing at a time: the rows of the table in `docs/types.md`.

A kind says how to make a collection that has the thing, and what of it has to be seen afterwards. Whether a server takes
it, keeps it and gets it back is found out by `tests.server.table`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pymilvus import DataType, FieldSchema, Function, FunctionType
from pymilvus.grpc_gen import schema_pb2

from tests.recipes import ARRAY_ELEMENTS, AWKWARD_KEYS, Row, json_value, vector_of

ROWS = 12
"""Rows of each collection: enough for every sort of value."""

FLAT: Mapping[str, Any] = {"index_type": "FLAT", "metric_type": "L2"}
SPARSE: Mapping[str, Any] = {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"}

Facts = dict[str, Any]
"""What a server says of a collection, as `tests.server.table.facts` gives it."""


@dataclass(frozen=True)
class Kind:
    """A collection that has one thing. `seen` picks that thing out of what a server says; `wanted` is what it has to be."""

    group: str
    label: str
    fields: Sequence[FieldSchema] = ()
    row: Callable[[int], Row] = lambda _: {}
    seen: Callable[[Facts], Any] = lambda _: None
    wanted: Any = None
    key: Mapping[str, Any] = field(default_factory=dict)
    plain_vector: bool = True
    indexes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    functions: Sequence[Function] = ()
    partitions: Sequence[str] = ()
    alias: bool = False
    database: bool = False
    limits: str = ""

    @property
    def rows(self) -> list[Row]:
        """All rows, with key and plain vector where they are the client's."""
        return [self._row(at) for at in range(ROWS)]

    def _row(self, at: int) -> Row:
        row: Row = {}
        if not self.key.get("auto_id"):
            row["id"] = f"key {at:03}" if self.key.get("dtype") == DataType.VARCHAR else at
        if self.plain_vector:
            row["vector"] = vector_of(at)
        return {**row, **self.row(at)}


def _types(*names: str) -> Callable[[Facts], Any]:
    return lambda facts: [facts["fields"].get(name, {}).get("type") for name in names]


def _scalar(label: str, data_type: DataType, value: Callable[[int], Any], **more: Any) -> Kind:
    field_schema = FieldSchema("value", data_type, **more)
    return Kind("Scalars", label, [field_schema], lambda at: {"value": value(at)}, _types("value"), [data_type.name])


def _whole(bits: int) -> Callable[[int], int]:
    values = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, -1, 7]
    return lambda at: values[at % 5]


def _floats(values: Sequence[float], kind: type) -> Callable[[int], float]:
    return lambda at: float(kind(values[at % len(values)]))


SCALARS = [
    _scalar("bool", DataType.BOOL, lambda at: at % 3 == 0),
    _scalar("int8", DataType.INT8, _whole(8)),
    _scalar("int16", DataType.INT16, _whole(16)),
    _scalar("int32", DataType.INT32, _whole(32)),
    _scalar("int64", DataType.INT64, _whole(64)),
    _scalar("float", DataType.FLOAT, _floats([1.5e-45, 3.4e38, -0.0, 0.1], np.float32)),
    _scalar("double", DataType.DOUBLE, _floats([5e-324, 1.7e308, -0.0, 0.1], float)),
    _scalar("varchar", DataType.VARCHAR, lambda at: AWKWARD_KEYS[at], max_length=512),
    _scalar("JSON: objects", DataType.JSON, json_value),
    _scalar("JSON: lists", DataType.JSON, lambda at: [at, [at / 7], {"deep": [None, "🐍", 1e-9, 2**53 + 1]}]),
    _scalar("JSON: bare strings, numbers, booleans", DataType.JSON, lambda at: ['a "quote"', at, at / 3, True][at % 4]),
    _scalar("timestamptz", DataType.TIMESTAMPTZ, lambda at: f"20{at + 10}-01-02T03:04:05.{at:06}Z"),
    _scalar("geometry", DataType.GEOMETRY, lambda at: f"POINT ({at} {-at})"),
    Kind(
        "Scalars",
        "the dynamic field",
        row=lambda at: [{"colour": "red"}, {"n": {"a": [1, {"b": None}]}, "ünï": 1e-9}, {}, {"ok": True}][at % 4],
        schema={"enable_dynamic_field": True},
        seen=lambda facts: facts["dynamic"],
        wanted=True,
    ),
]


def _array(name: str, element: DataType) -> Kind:
    values: dict[str, Callable[[int], Any]] = {
        "flags": lambda at: at % 3 == 0,
        "tiny": _whole(8),
        "small": _whole(16),
        "medium": _whole(32),
        "large": _whole(64),
        "ratios": _floats([0.1, -0.0, 1.5e-45], np.float32),
        "precise": _floats([0.1, -0.0, 5e-324], float),
        "words": lambda at: AWKWARD_KEYS[at],
    }
    more = {"max_length": 64} if element == DataType.VARCHAR else {}
    return Kind(
        "Arrays",
        f"array of {element.name.lower()}",
        [FieldSchema("value", DataType.ARRAY, element_type=element, max_capacity=16, **more)],
        lambda at: {"value": [values[name](inner) for inner in range(at)]},
        lambda facts: [facts["fields"]["value"].get(key) for key in ("type", "element_type")],
        ["ARRAY", element.name],
    )


ARRAYS = [
    *(_array(name, element) for name, element in ARRAY_ELEMENTS.items()),
    Kind(
        "Arrays",
        "the elements' `max_length`",
        [FieldSchema("value", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=16, max_length=64)],
        lambda at: {"value": ["ab"] * at},
        lambda facts: facts["fields"]["value"]["params"].get("max_length"),
        64,
    ),
]


def _vector(label: str, data_type: DataType, value: Callable[[int], Any], index: Mapping[str, Any], **more: Any) -> Kind:
    return Kind(
        "Vectors",
        label,
        [FieldSchema("value", data_type, **more)],
        lambda at: {"value": value(at)},
        _types("value"),
        [data_type.name],
        plain_vector=False,
        indexes={"value": index},
    )


def _bfloat16(at: int) -> bytes:
    return (np.full(16, at / 3, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


VECTORS = [
    _vector("float", DataType.FLOAT_VECTOR, lambda at: vector_of(at, 16), FLAT, dim=16),
    _vector(
        "binary",
        DataType.BINARY_VECTOR,
        lambda at: bytes([at, 255 - at]),
        {"index_type": "BIN_FLAT", "metric_type": "HAMMING"},
        dim=16,
    ),
    _vector("float16", DataType.FLOAT16_VECTOR, lambda at: np.full(16, at / 3, np.float16), FLAT, dim=16),
    _vector("bfloat16", DataType.BFLOAT16_VECTOR, _bfloat16, FLAT, dim=16),
    _vector("int8", DataType.INT8_VECTOR, lambda at: np.full(16, at - 6, np.int8), FLAT, dim=16),
    _vector("sparse", DataType.SPARSE_FLOAT_VECTOR, lambda at: {at: 0.5, 4_000_000: 1.25, at + 7: 2.0}, SPARSE),
    Kind(
        "Vectors",
        "several in a row: float, float, sparse",
        [FieldSchema("second", DataType.FLOAT_VECTOR, dim=4), FieldSchema("third", DataType.SPARSE_FLOAT_VECTOR)],
        lambda at: {"second": vector_of(-at, 4), "third": {at: 1.0}},
        _types("second", "third"),
        ["FLOAT_VECTOR", "SPARSE_FLOAT_VECTOR"],
        indexes={"second": FLAT, "third": SPARSE},
    ),
]


def _nullable(label: str, data_type: DataType, value: Any, **more: Any) -> Kind:
    return Kind(
        "Null and default values",
        f"null {label}",
        [FieldSchema("value", data_type, nullable=True, **more)],
        lambda at: {"value": None if at % 3 == 0 else value},
        lambda facts: facts["fields"]["value"]["nullable"],
        True,
    )


def _default(label: str, data_type: DataType, default: Any, value: Any, **more: Any) -> Kind:
    default = float(np.float32(default)) if data_type == DataType.FLOAT else default
    # pymilvus would send every whole number as an int64, which Milvus 2.3.5 refuses for the smaller types.
    small = data_type in (DataType.INT8, DataType.INT16, DataType.INT32)
    sent = schema_pb2.ValueField(int_data=default) if small else default
    return Kind(
        "Null and default values",
        f"default {label}",
        [FieldSchema("value", data_type, default_value=sent, **more)],
        lambda at: {"value": default if at % 3 == 0 else value},
        lambda facts: facts["fields"]["value"]["default_value"],
        default,
    )


NULLS = [
    _nullable("bool", DataType.BOOL, value=True),
    _nullable("int8", DataType.INT8, -7),
    _nullable("int16", DataType.INT16, -777),
    _nullable("int32", DataType.INT32, 7),
    _nullable("int64", DataType.INT64, 2**62),
    _nullable("float", DataType.FLOAT, 0.5),
    _nullable("double", DataType.DOUBLE, 0.1),
    _nullable("varchar", DataType.VARCHAR, "é", max_length=32),
    _nullable("JSON", DataType.JSON, {"a": [None]}),
    _nullable("timestamptz", DataType.TIMESTAMPTZ, "2026-01-02T03:04:05Z"),
    _nullable("geometry", DataType.GEOMETRY, "POINT (1 2)"),
    _nullable("array", DataType.ARRAY, [1, 2], element_type=DataType.INT64, max_capacity=8),
    _nullable("float vector", DataType.FLOAT_VECTOR, vector_of(1, 4), dim=4),
    _nullable("sparse vector", DataType.SPARSE_FLOAT_VECTOR, {1: 1.0}),
    _default("bool", DataType.BOOL, default=True, value=False),
    _default("int8", DataType.INT8, -5, 1),
    _default("int16", DataType.INT16, -555, 1),
    _default("int32", DataType.INT32, 5, 1),
    _default("int64", DataType.INT64, 2**60, 1),
    _default("float", DataType.FLOAT, 0.1, 1.0),
    _default("double", DataType.DOUBLE, 0.1, 1.0),
    _default("varchar", DataType.VARCHAR, "none", "some", max_length=32),
    Kind(
        "Null and default values",
        "null, with a default",
        [FieldSchema("value", DataType.INT64, nullable=True, default_value=5)],
        lambda at: {"value": at},
        lambda facts: (facts["fields"]["value"]["nullable"], facts["fields"]["value"]["default_value"]),
        (True, 5),
    ),
]


def _keys(label: str, data_type: DataType, *, auto_id: bool = False, **more: Any) -> Kind:
    return Kind(
        "Keys",
        label,
        key={"dtype": data_type, "auto_id": auto_id, **more},
        seen=lambda facts: [facts["fields"]["id"][name] for name in ("type", "auto_id")],
        wanted=[data_type.name, auto_id],
    )


KEYS = [
    _keys("int64", DataType.INT64),
    _keys("varchar", DataType.VARCHAR, max_length=100),
    _keys("int64, made by the server (`auto_id`)", DataType.INT64, auto_id=True),
    _keys("varchar, made by the server (`auto_id`)", DataType.VARCHAR, auto_id=True, max_length=100),
]


def _marked(label: str, data_type: DataType, mark: str, value: Callable[[int], Any], **more: Any) -> Kind:
    return Kind(
        "Arrangement",
        label,
        [FieldSchema("value", data_type, **{mark: True}, **more)],
        lambda at: {"value": value(at)},
        lambda facts: facts["fields"]["value"][mark.removeprefix("is_")],
        True,
    )


def _said(label: str, seen: Callable[[Facts], Any], wanted: Any, **more: Any) -> Kind:
    return Kind("Arrangement", label, seen=seen, wanted=wanted, **more)


def _property(label: str, name: str, value: str) -> Kind:
    more = {"options": {"properties": {name: value}}}
    return _said(label, lambda facts: facts["properties"].get(name), value, **more)


ARRANGEMENTS = [
    _said("partitions", lambda facts: facts["partitions"], ["_default", "full", "void"], partitions=("full", "void")),
    _marked("a partition key, int64", DataType.INT64, "is_partition_key", lambda at: at % 4),
    _marked("a partition key, varchar", DataType.VARCHAR, "is_partition_key", lambda at: f"t{at % 4}", max_length=16),
    Kind(
        "Arrangement",
        "the number of partitions of a partition key",
        [FieldSchema("value", DataType.INT64, is_partition_key=True)],
        lambda at: {"value": at % 4},
        lambda facts: facts["partitions"],
        7,
        options={"num_partitions": 7},
    ),
    _marked("a clustering key", DataType.INT64, "is_clustering_key", lambda at: at),
    _said("aliases", lambda facts: facts["aliases"], 1, alias=True),
    _said("a named database", lambda facts: facts["database"], True, database=True),
    _said("the collection's description", lambda facts: facts["description"], "ünï", schema={"description": "ünï"}),
    Kind(
        "Arrangement",
        "fields' descriptions",
        [FieldSchema("value", DataType.INT64, description="in euros")],
        lambda at: {"value": at},
        lambda facts: facts["fields"]["value"]["description"],
        "in euros",
    ),
    _said("shards", lambda facts: facts["shards"], 2, options={"num_shards": 2}),
    _said("consistency level", lambda facts: facts["level"], 3, options={"consistency_level": "Eventually"}),
    _property("the property `collection.ttl.seconds`", "collection.ttl.seconds", "864000"),
    _property("the property `mmap.enabled`", "mmap.enabled", "true"),
    _property("the property `timezone`", "timezone", "Europe/Berlin"),
    Kind(
        "Arrangement",
        "strings' `max_length`",
        [FieldSchema("value", DataType.VARCHAR, max_length=77)],
        lambda at: {"value": "ä" * at},
        lambda facts: facts["fields"]["value"]["params"].get("max_length"),
        77,
    ),
    Kind(
        "Arrangement",
        "arrays' `max_capacity`",
        [FieldSchema("value", DataType.ARRAY, element_type=DataType.INT64, max_capacity=77)],
        lambda at: {"value": [at] * at},
        lambda facts: facts["fields"]["value"]["params"].get("max_capacity"),
        77,
    ),
]

_TEXT = FieldSchema(
    "text", DataType.VARCHAR, max_length=200, enable_analyzer=True, analyzer_params={"type": "english"}, enable_match=True
)

FUNCTIONS = [
    Kind(
        "Functions and analyzers",
        "an analyzer and its parameters",
        [_TEXT],
        lambda at: {"text": f"word{at} and another"},
        lambda facts: [str(facts["fields"]["text"]["params"].get(name)).lower() for name in ("enable_analyzer", "enable_match")],
        ["true", "true"],
    ),
    Kind(
        "Functions and analyzers",
        "a BM25 function (its output is made anew)",
        [_TEXT, FieldSchema("words", DataType.SPARSE_FLOAT_VECTOR)],
        lambda at: {"text": f"word{at} and another"},
        lambda facts: facts["functions"],
        [("bm25", 1, ("text",), ("words",))],
        functions=[Function("bm25", FunctionType.BM25, ["text"], ["words"])],
        indexes={"words": {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "BM25"}},
    ),
]


def _index(on: str, index_type: str, metric: str = "", params: Mapping[str, Any] | None = None, name: str = "") -> Kind:
    definition: dict[str, Any] = {"index_type": index_type}
    if metric:
        definition["metric_type"] = metric
    if params:
        definition["params"] = dict(params)
    if name:
        definition["index_name"] = name
    types: dict[str, tuple[FieldSchema, Callable[[int], Any]]] = {
        "float": (FieldSchema("value", DataType.FLOAT_VECTOR, dim=8), vector_of),
        "binary": (FieldSchema("value", DataType.BINARY_VECTOR, dim=16), lambda at: bytes([at, 255 - at])),
        "sparse": (FieldSchema("value", DataType.SPARSE_FLOAT_VECTOR), lambda at: {at: 0.5, at + 1: 1.0}),
        "varchar": (FieldSchema("value", DataType.VARCHAR, max_length=64), lambda at: f"word {at}"),
        "int64": (FieldSchema("value", DataType.INT64), lambda at: at),
        "bool": (FieldSchema("value", DataType.BOOL), lambda at: at % 2 == 0),
        "JSON": (FieldSchema("value", DataType.JSON), lambda at: {"at": at}),
    }
    field_schema, value = types[on]
    wanted = {"type": index_type, **({"metric": metric} if metric else {}), **{key: str(v) for key, v in (params or {}).items()}}
    if name:
        wanted["name"] = name
    label = f"{index_type or 'the default'} on {on}" if not name else "an index's own name"
    return Kind(
        "Index definitions",
        label + (f", {metric}" if metric and not name else ""),
        [field_schema],
        lambda at: {"value": value(at)},
        lambda facts: {key: facts["indexes"].get("value", {}).get(key) for key in wanted},
        wanted,
        plain_vector=not field_schema.dtype.name.endswith("VECTOR"),
        indexes={"value": definition},
    )


INDEXES = [
    _index("float", "FLAT", "COSINE"),
    _index("float", "AUTOINDEX", "IP"),
    _index("float", "IVF_FLAT", "L2", {"nlist": 2}),
    _index("float", "IVF_SQ8", "IP", {"nlist": 2}),
    _index("float", "IVF_PQ", "L2", {"nlist": 2, "m": 4, "nbits": 8}),
    _index("float", "HNSW", "COSINE", {"M": 12, "efConstruction": 50}),
    _index("float", "HNSW_SQ", "L2", {"M": 12, "efConstruction": 50}),
    _index("float", "SCANN", "L2", {"nlist": 2}),
    _index("float", "DISKANN", "L2"),
    _index("binary", "BIN_FLAT", "JACCARD"),
    _index("binary", "BIN_IVF_FLAT", "HAMMING", {"nlist": 2}),
    _index("sparse", "SPARSE_INVERTED_INDEX", "IP"),
    _index("sparse", "SPARSE_WAND", "IP"),
    _index("varchar", "Trie"),
    _index("varchar", "INVERTED"),
    _index("int64", "STL_SORT"),
    _index("int64", "INVERTED"),
    _index("int64", "AUTOINDEX"),
    _index("bool", "BITMAP"),
    _index("JSON", "INVERTED", "", {"json_path": 'value["at"]', "json_cast_type": "double"}),
    _index("float", "FLAT", "L2", name="an_index_of_my_own"),
]

KINDS = [*KEYS, *SCALARS, *ARRAYS, *VECTORS, *NULLS, *ARRANGEMENTS, *FUNCTIONS, *INDEXES]
"""All of them, in the table's order."""
