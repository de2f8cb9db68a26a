"""What the rows of the table in `docs/types.md` are made of: a kind of collection that has one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymilvus import DataType, FieldSchema, Function

from tests.recipes import Row, vector_of

ROWS = 12
"""Rows of each collection: enough for every sort of value."""

FLAT: Mapping[str, Any] = {"index_type": "FLAT", "metric_type": "L2"}
SPARSE: Mapping[str, Any] = {"index_type": "SPARSE_INVERTED_INDEX", "metric_type": "IP"}

SERVER = "Milvus 2.3.5"

Facts = dict[str, Any]
"""What a server says of a collection, as `tests.server.table.facts` gives it."""


@dataclass(frozen=True)
class Kind:
    """A collection that has one thing. `seen` picks it out of what a server says; `wanted` is what it has to be.

    On the servers that `untried` names, the kind is not made: they take it, and hang or die when they load it. Where
    `rows_refused`, another server may take the schema and refuse the values.
    """

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
    untried: tuple[str, ...] = ()
    rows_refused: bool = False

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
