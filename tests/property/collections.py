"""Collections of any kind, drawn by hypothesis from everything that a server holds.

A drawn collection is data alone, printed so that it can be read: fields as pymilvus takes them, rows with the values
that a server has to give back. What a server refuses is not drawn; that it is refused has a test of its own.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pymilvus import CollectionSchema, DataType, FieldSchema

from tests.recipes import AWKWARD_KEYS, Row

LITE, SERVER = "lite", "server"

NUMBERS = {"INT8": 8, "INT16": 16, "INT32": 32, "INT64": 64}
SCALARS = ["BOOL", *NUMBERS, "FLOAT", "DOUBLE", "VARCHAR", "JSON", "ARRAY"]
ONLY_LITE = ["TIMESTAMPTZ", "GEOMETRY"]
ELEMENTS = ["BOOL", *NUMBERS, "FLOAT", "DOUBLE", "VARCHAR"]
INDEXES = {
    "FLOAT_VECTOR": {"index_type": "FLAT", "metric_type": "L2"},
    "FLOAT16_VECTOR": {"index_type": "FLAT", "metric_type": "L2"},
    "BINARY_VECTOR": {"index_type": "BIN_FLAT", "metric_type": "HAMMING"},
    "SPARSE_FLOAT_VECTOR": {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"},
}
TEXT_BYTES = 400
"""The longest text that is drawn, in UTF-8 bytes, which 2.3.5 counts (Lite counts characters)."""


@dataclass(frozen=True)
class Drawn:
    """A collection to be made. `rows` are as the server gives them back; `omitted` names what is left out on insert."""

    fields: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    dynamic: bool = False
    partitions: Sequence[str] = ()
    places: Sequence[str] = ()
    """Each row's partition; empty where the server decides."""
    omitted: Sequence[frozenset[str]] = field(default=())
    """For each row, the fields that are not sent: null values and default values are the server's to fill in."""

    @property
    def key(self) -> str:
        """The primary key's name."""
        return next(one["name"] for one in self.fields if one.get("is_primary"))

    @property
    def makes_keys(self) -> bool:
        """Whether the server makes the keys."""
        return any(one.get("auto_id") for one in self.fields)

    def schema(self) -> CollectionSchema:
        """As pymilvus takes it."""
        fields = [FieldSchema(**{**one, "dtype": DataType[one["dtype"]]}) for one in map(_types, self.fields)]
        return CollectionSchema(fields, enable_dynamic_field=self.dynamic)

    def sent(self, at: int) -> Row:
        """The row as it is inserted."""
        types = {one["name"]: one["dtype"] for one in self.fields}
        return {
            name: to_send(types.get(name, ""), value)
            for name, value in self.rows[at].items()
            if name not in self.omitted[at]
        }


def _types(one: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, "element_type": DataType[one["element_type"]]} if "element_type" in one else dict(one)


def to_send(data_type: str, value: Any) -> Any:
    """A value as pymilvus wants it."""
    if data_type == "TIMESTAMPTZ" and value is not None:
        return (EPOCH + datetime.timedelta(microseconds=value)).isoformat()
    if data_type == "FLOAT16_VECTOR":
        return np.array(value, np.float16)
    return value


HIGHEST = 2**63 - 1
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
YEAR_1, YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999


def fits(text: str) -> bool:
    return len(text.encode()) <= TEXT_BYTES


texts = st.one_of(
    st.sampled_from(AWKWARD_KEYS),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.text("a\"'\\\0\n🐍é%_", max_size=8),
    st.text("xyz", min_size=60, max_size=300),
).filter(fits)
# What a float of the width holds, NaN, infinities, both zeros and subnormal numbers included.
float32s = st.floats(width=32) | st.sampled_from([-0.0, 0.0, 1e-45, float("nan"), float("inf"), float("-inf")]).map(
    lambda number: float(np.float32(number))
)
float64s = st.floats() | st.sampled_from([-0.0, 5e-324, float("nan"), float("-inf")])
finite32s = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.just(-0.0)

json_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
json_keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.sampled_from(["", "a.b", "$", '"', "é"])
json_values = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(json_keys, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def deep(draw: st.DrawFn) -> Any:
    """JSON nested up to sixty deep."""
    value = draw(json_leaves)
    for level in draw(st.lists(st.booleans(), min_size=3, max_size=60)):
        value = [value] if level else {"deeper": value}
    return value


json_objects = st.dictionaries(json_keys, json_values, max_size=4) | deep().map(lambda value: {"deep": value})


def whole(bits: int) -> SearchStrategy[int]:
    """Integers of so many bits, the limits often."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return st.sampled_from([low, high, 0, -1]) | st.integers(low, high)


def shapes() -> SearchStrategy[str]:
    """Geometries as text, which Lite keeps as it came: points and valid polygons are all that it takes."""
    number = st.integers(-150, 150)
    sides = st.integers(1, 20)
    fine = number | st.sampled_from(["0.5", "-1.25", "1.50"])
    dots = st.tuples(number, fine).map(lambda at: f"POINT ({at[0]} {at[1]})")
    rings = st.tuples(number, number, sides).map(
        lambda at: f"POLYGON (({at[0]} {at[1]}, {at[0] + at[2]} {at[1]}, {at[0]} {at[1] + at[2]}, {at[0]} {at[1]}))"
    )
    return dots | rings


def scalar(data_type: str, kind: str) -> SearchStrategy[Any]:
    """Values of a scalar type."""
    if data_type in NUMBERS:
        return whole(NUMBERS[data_type])
    return {
        "BOOL": st.booleans(),
        "FLOAT": float32s,
        "DOUBLE": float64s,
        "VARCHAR": texts,
        "JSON": json_objects if kind == SERVER else json_objects | st.lists(json_values, max_size=4),
        "TIMESTAMPTZ": st.integers(YEAR_1, YEAR_9999),
        "GEOMETRY": shapes(),
    }[data_type]


def sparse() -> SearchStrategy[dict[int, float]]:
    """Sparse vectors: Lite takes weights above zero, and at least one."""
    weights = st.floats(2.0**-149, float(np.finfo(np.float32).max), width=32)
    return st.dictionaries(st.integers(0, 2**32 - 2) | st.integers(0, 50), weights, min_size=1, max_size=5)


def vector(one: Mapping[str, Any], kind: str) -> SearchStrategy[Any]:
    """Values of a vector field."""
    data_type, dim = one["dtype"], one.get("dim", 0)
    if data_type == "SPARSE_FLOAT_VECTOR":
        return sparse()
    if data_type == "BINARY_VECTOR":
        return st.binary(min_size=dim // 8, max_size=dim // 8)
    if data_type == "FLOAT16_VECTOR":
        halves = st.floats(width=16, allow_nan=False, allow_infinity=False)
        return st.lists(halves, min_size=dim, max_size=dim)
    return st.lists(float32s if kind == LITE else finite32s, min_size=dim, max_size=dim)


plain_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
any_names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
RESERVED = {"$meta", "RowID", "Timestamp", "count(*)", "*"}


@st.composite
def scalar_field(draw: st.DrawFn, name: str, kind: str) -> dict[str, Any]:
    """A field of any scalar type; on Lite maybe nullable, or with a default value."""
    data_type = draw(st.sampled_from(SCALARS + (ONLY_LITE if kind == LITE else [])))
    one: dict[str, Any] = {"name": name, "dtype": data_type}
    if data_type == "VARCHAR":
        one["max_length"] = TEXT_BYTES
    if data_type == "ARRAY":
        one |= {"element_type": draw(st.sampled_from(ELEMENTS)), "max_capacity": 8}
        if one["element_type"] == "VARCHAR":
            one["max_length"] = TEXT_BYTES
    if kind == LITE:
        choice = draw(st.integers(0, 5))
        if choice <= 1:
            one["nullable"] = True
        elif choice == 2 and data_type in ("BOOL", "INT8", "INT16", "INT32", "INT64", "FLOAT", "DOUBLE", "VARCHAR"):
            one["default_value"] = draw(default(data_type))
    return one


def default(data_type: str) -> SearchStrategy[Any]:
    """A default value; pymilvus guesses the type of some of them by Python's."""
    if data_type in ("FLOAT", "DOUBLE"):
        return finite32s
    return scalar(data_type, LITE)


def values(one: Mapping[str, Any], kind: str) -> SearchStrategy[Any]:
    """Values that a field's rows may have."""
    if one["dtype"].endswith("VECTOR"):
        return vector(one, kind)
    if one["dtype"] == "ARRAY":
        plain = st.lists(scalar(one["element_type"], kind), max_size=5)
    else:
        plain = scalar(one["dtype"], kind)
    return st.none() | plain if one.get("nullable") else plain


@st.composite
def collections(draw: st.DrawFn, kind: str) -> Drawn:
    """Any collection that the kind of server holds, with up to eight rows."""
    name_strategy = plain_names if kind == SERVER else plain_names | any_names
    names = draw(
        st.lists(name_strategy.filter(lambda name: name not in RESERVED), min_size=3, max_size=8, unique_by=str.lower)
    )
    key: dict[str, Any] = {"name": "id" if kind == LITE else names[0], "is_primary": True}
    names = [name for name in names[1:] if name != "id"] or ["other"]
    key |= draw(st.sampled_from([{"dtype": "INT64"}, {"dtype": "VARCHAR", "max_length": TEXT_BYTES}]))
    if key["dtype"] == "INT64" and draw(st.integers(0, 9)) == 0:
        key["auto_id"] = True
    vectors = draw(vector_fields(kind))
    fields = [draw(scalar_field(name, kind)) for name in names]
    partition_key = draw(st.integers(0, 5)) == 0
    if partition_key:
        sort = draw(st.sampled_from([{"dtype": "INT64"}, {"dtype": "VARCHAR", "max_length": TEXT_BYTES}]))
        fields.append({"name": "tenant_of", "is_partition_key": True, **sort})
    fields = [key, *draw(st.permutations(fields + vectors))]
    dynamic = draw(st.booleans())
    partitions = [] if partition_key else draw(st.sampled_from([[], [], ["spring"], ["spring", "Herbst_2"]]))
    # 2.3.5 counts a row with the highest key, and shows it to no query.
    possible = scalar(key["dtype"], kind).filter(lambda value: kind == LITE or value != HIGHEST)
    keys = draw(st.lists(possible, max_size=8, unique=True))
    rows, omitted, places = [], [], []
    taken = {one["name"] for one in fields}
    for value in keys:
        row: Row = {} if key.get("auto_id") else {key["name"]: value}
        left_out = set()
        for one in fields[1:]:
            row[one["name"]] = draw(values(one, kind))
            if "default_value" in one and draw(st.booleans()):
                row[one["name"]] = one["default_value"]
                left_out.add(one["name"])
            elif row[one["name"]] is None and draw(st.booleans()):
                left_out.add(one["name"])
        if dynamic:
            extra = draw(st.dictionaries(json_keys | any_names, json_values, max_size=3))
            row |= {name: inner for name, inner in extra.items() if name not in taken | RESERVED}
        rows.append(row)
        omitted.append(frozenset(left_out))
        places.append(draw(st.sampled_from(["_default", *partitions])) if partitions else "")
    return Drawn(fields, rows, dynamic, partitions, places, omitted)


@st.composite
def vector_fields(draw: st.DrawFn, kind: str) -> list[dict[str, Any]]:
    """One vector field, on Lite up to three."""
    only = {LITE: ["SPARSE_FLOAT_VECTOR"], SERVER: ["BINARY_VECTOR", "FLOAT16_VECTOR"]}
    choices = ["FLOAT_VECTOR", *only[kind]]
    drawn = draw(st.lists(st.sampled_from(choices), min_size=1, max_size=3 if kind == LITE else 1))
    fields = []
    for at, data_type in enumerate(drawn):
        one: dict[str, Any] = {"name": f"vector_{at}", "dtype": data_type}
        if data_type == "BINARY_VECTOR":
            one["dim"] = 8 * draw(st.integers(1, 4))
        elif data_type != "SPARSE_FLOAT_VECTOR":
            one["dim"] = draw(st.integers(2, 9))
        fields.append(one)
    return fields
