"""Every kind of collection, one thing at a time: the rows of the table in `docs/types.md`. Here those of types.

Whether a server takes a kind, keeps it and gets it back is found out by `tests.server.table`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pymilvus import DataType, FieldSchema, StructFieldSchema
from pymilvus.grpc_gen import schema_pb2

from tests.recipes import ARRAY_ELEMENTS, AWKWARD_KEYS, json_value, vector_of
from tests.server.arrangements import ARRANGEMENTS, FUNCTIONS, INDEXES
from tests.server.kind import FLAT, SERVER, SPARSE, Facts, Kind


def _types(*names: str) -> Callable[[Facts], Any]:
    return lambda facts: [facts["fields"].get(name, {}).get("type") for name in names]


def _scalar(
    label: str, data_type: DataType, value: Callable[[int], Any], untried: tuple[str, ...] = (), **more: Any
) -> Kind:
    return Kind(
        "Scalars",
        label,
        [FieldSchema("value", data_type, **more)],
        lambda at: {"value": value(at)},
        _types("value"),
        [data_type.name],
        untried=untried,
    )


def _whole(bits: int) -> Callable[[int], int]:
    values = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, -1, 7]
    return lambda at: values[at % 5]


def _floats(values: Sequence[float], kind: type) -> Callable[[int], float]:
    return lambda at: float(kind(values[at % len(values)]))


def _micros(at: int) -> str:
    return f".{at:06}" if at else ""


NUMBERS: Mapping[str, tuple[DataType, Callable[[int], Any]]] = {
    "a_bool": (DataType.BOOL, lambda at: at % 3 == 0),
    "an_int8": (DataType.INT8, _whole(8)),
    "an_int16": (DataType.INT16, _whole(16)),
    "an_int32": (DataType.INT32, _whole(32)),
    "an_int64": (DataType.INT64, _whole(64)),
    "a_float": (DataType.FLOAT, _floats([1.5e-45, 3.4e38, -0.0, 0.1], np.float32)),
    "a_double": (DataType.DOUBLE, _floats([5e-324, 1.7e308, -0.0, 0.1], float)),
}

SCALARS = [
    Kind(
        "Scalars",
        "bool, int8, int16, int32, int64, float, double",
        [FieldSchema(name, data_type) for name, (data_type, _) in NUMBERS.items()],
        lambda at: {name: value(at) for name, (_, value) in NUMBERS.items()},
        _types(*NUMBERS),
        [data_type.name for data_type, _ in NUMBERS.values()],
    ),
    _scalar("varchar", DataType.VARCHAR, lambda at: AWKWARD_KEYS[at], max_length=512),
    _scalar("JSON: objects", DataType.JSON, json_value),
    Kind(
        "Scalars",
        "JSON: lists",
        [FieldSchema("value", DataType.JSON)],
        lambda at: {"value": [at, [at / 7], {"deep": [None, "🐍", 1e-9, 2**53 + 1]}]},
        _types("value"),
        ["JSON"],
        rows_refused=True,
    ),
    _scalar("JSON: bare strings", DataType.JSON, lambda at: json.dumps(f"text {at}")),
    _scalar("JSON: bare numbers", DataType.JSON, lambda at: at / 7),
    _scalar("timestamptz", DataType.TIMESTAMPTZ, lambda at: f"20{at + 10}-01-02T03:04:05{_micros(at)}Z", (SERVER,)),
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


_ELEMENTS: Mapping[str, Callable[[int], Any]] = {
    "flags": lambda at: at % 3 == 0,
    "tiny": _whole(8),
    "small": _whole(16),
    "medium": _whole(32),
    "large": _whole(64),
    "ratios": _floats([0.1, -0.0, 1.5e-45], np.float32),
    "precise": _floats([0.1, -0.0, 5e-324], float),
    "words": lambda at: AWKWARD_KEYS[at],
}


def _array(name: str, element: DataType) -> FieldSchema:
    more = {"max_length": 64} if element == DataType.VARCHAR else {}
    return FieldSchema(name, DataType.ARRAY, element_type=element, max_capacity=16, **more)


_STRUCTS = StructFieldSchema()
_STRUCTS.name, _STRUCTS.max_capacity = "parts", 8
_STRUCTS.add_field("number", DataType.INT64)

ARRAYS = [
    Kind(
        "Arrays",
        "of bool, int8, int16, int32, int64, float, double, varchar",
        [_array(name, element) for name, element in ARRAY_ELEMENTS.items()],
        lambda at: {name: [value(inner) for inner in range(at)] for name, value in _ELEMENTS.items()},
        lambda facts: [facts["fields"][name]["element_type"] for name in ARRAY_ELEMENTS],
        [element.name for element in ARRAY_ELEMENTS.values()],
    ),
    Kind(
        "Arrays",
        "the elements' `max_length`",
        [FieldSchema("value", DataType.ARRAY, element_type=DataType.VARCHAR, max_capacity=16, max_length=64)],
        lambda at: {"value": ["ab"] * at},
        lambda facts: facts["fields"]["value"]["params"].get("max_length"),
        64,
    ),
    Kind(
        "Arrays",
        "of structs",
        schema={"struct_fields": [_STRUCTS]},
        seen=lambda facts: facts["structs"],
        wanted=["parts"],
    ),
]


def _vector(
    label: str,
    data_type: DataType,
    value: Callable[[int], Any],
    index: Mapping[str, Any],
    untried: tuple[str, ...] = (),
    **more: Any,
) -> Kind:
    return Kind(
        "Vectors",
        label,
        [FieldSchema("value", data_type, **more)],
        lambda at: {"value": value(at)},
        _types("value"),
        [data_type.name],
        plain_vector=False,
        indexes={"value": index},
        untried=untried,
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
    _vector("bfloat16", DataType.BFLOAT16_VECTOR, _bfloat16, FLAT, (SERVER,), dim=16),
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
        plain_vector="vector" not in label,
        indexes={"value": FLAT if data_type == DataType.FLOAT_VECTOR else SPARSE} if "vector" in label else {},
    )


NULLABLE: Mapping[str, tuple[DataType, Any]] = {
    "a_bool": (DataType.BOOL, True),
    "an_int8": (DataType.INT8, -7),
    "an_int16": (DataType.INT16, -777),
    "an_int32": (DataType.INT32, 7),
    "an_int64": (DataType.INT64, 2**62),
    "a_float": (DataType.FLOAT, 0.5),
    "a_double": (DataType.DOUBLE, 0.1),
    "a_varchar": (DataType.VARCHAR, "é"),
    "a_json": (DataType.JSON, {"a": [None]}),
}


def _limit(data_type: DataType) -> Mapping[str, Any]:
    return {"max_length": 32} if data_type == DataType.VARCHAR else {}


DEFAULTS: Mapping[str, tuple[DataType, Any]] = {
    "a_bool": (DataType.BOOL, True),
    "an_int8": (DataType.INT8, -5),
    "an_int16": (DataType.INT16, -555),
    "an_int32": (DataType.INT32, 5),
    "an_int64": (DataType.INT64, 2**60),
    "a_float": (DataType.FLOAT, float(np.float32(0.1))),
    "a_double": (DataType.DOUBLE, 0.1),
    "a_varchar": (DataType.VARCHAR, "none"),
}


def _default(name: str, data_type: DataType, value: Any) -> FieldSchema:
    # pymilvus would send every whole number as an int64, which Milvus 2.3.5 refuses for the smaller types.
    small = data_type in (DataType.INT8, DataType.INT16, DataType.INT32)
    sent = schema_pb2.ValueField(int_data=value) if small else value
    return FieldSchema(name, data_type, default_value=sent, **_limit(data_type))


NULLS = [
    Kind(
        "Null and default values",
        "null bool, int8, int16, int32, int64, float, double, varchar, JSON",
        [FieldSchema(name, kind, nullable=True, **_limit(kind)) for name, (kind, _) in NULLABLE.items()],
        lambda at: {name: None if at % 3 == 0 else value for name, (_, value) in NULLABLE.items()},
        lambda facts: all(facts["fields"][name]["nullable"] for name in NULLABLE),
        True,
    ),
    _nullable("timestamptz", DataType.TIMESTAMPTZ, "2026-01-02T03:04:05Z"),
    _nullable("geometry", DataType.GEOMETRY, "POINT (1 2)"),
    _nullable("array", DataType.ARRAY, [1, 2], element_type=DataType.INT64, max_capacity=8),
    _nullable("float vector", DataType.FLOAT_VECTOR, vector_of(1, 4), dim=4),
    _nullable("sparse vector", DataType.SPARSE_FLOAT_VECTOR, {1: 1.0}),
    Kind(
        "Null and default values",
        "default bool, int8, int16, int32, int64, float, double, varchar",
        [_default(name, kind, value) for name, (kind, value) in DEFAULTS.items()],
        lambda at: {name: value if at % 3 == 0 else type(value)(1) for name, (_, value) in DEFAULTS.items()},
        lambda facts: {name: facts["fields"][name]["default_value"] for name in DEFAULTS},
        {name: value for name, (_, value) in DEFAULTS.items()},
    ),
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

KINDS = [*KEYS, *SCALARS, *ARRAYS, *VECTORS, *NULLS, *ARRANGEMENTS, *FUNCTIONS, *INDEXES]
"""All of them, in the table's order."""
