"""Kinds of collections that differ in arrangement, functions or indexes, and not in the types of their fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pymilvus import DataType, FieldSchema, Function, FunctionType

from tests.recipes import vector_of
from tests.server.kind import Facts, Kind


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
    "text",
    DataType.VARCHAR,
    max_length=200,
    enable_analyzer=True,
    analyzer_params={"tokenizer": "standard", "filter": ["lowercase"]},
    enable_match=True,
)


def _analyzer(facts: Facts) -> Any:
    params = facts["fields"]["text"]["params"]
    return [str(params.get(name)).lower() for name in ("enable_analyzer", "enable_match")], params["analyzer_params"]


FUNCTIONS = [
    Kind(
        "Functions and analyzers",
        "an analyzer and its parameters",
        [_TEXT],
        lambda at: {"text": f"word{at} and another"},
        _analyzer,
        (["true", "true"], {"tokenizer": "standard", "filter": ["lowercase"]}),
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
    wanted = {key: text for key, text in (("type", index_type), ("metric", metric), ("name", name)) if text}
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
    Kind(
        "Index definitions",
        "build parameters (HNSW's M and efConstruction)",
        [FieldSchema("value", DataType.FLOAT_VECTOR, dim=8)],
        lambda at: {"value": vector_of(at)},
        lambda facts: [facts["indexes"].get("value", {}).get(key) for key in ("M", "efConstruction")],
        ["12", "50"],
        plain_vector=False,
        indexes={
            "value": {"index_type": "HNSW", "metric_type": "L2", "params": {"M": 12, "efConstruction": 50}},
        },
    ),
]
