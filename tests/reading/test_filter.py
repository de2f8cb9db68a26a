"""The same filter on a server and on a backup chooses the same rows; where it does not, `docs/reading.md` says so."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from pymilvus import DataType, FieldSchema, MilvusException

from milvault import BackupManager, InvalidArgumentError
from tests.recipes import Recipe, create, key_field, vector_field, vector_of

TEXTS = ["", "apple", "Apple", "ap%le", "ap_le", "a\\b", 'q"u', "q'u", "line\nbreak", "äpfel", "🐍x", "tab\there"]
JSONS: list[dict[str, Any]] = [
    {"a": 1, "s": "x", "o": {"k": [1, 2]}, "m": 1},
    {"a": 1.0, "s": "X", "m": "1"},
    {"a": 2, "m": 1.5},
    {"a": "1"},
    {"a": [1]},
    {"a": {"b": {"c": 7}}},
    {"a": -3.5, "m": 2**53 + 1},
    {"a": 1e300, "m": 2**53},
    {"a": 4, "s": "äx"},
    {"a": 0, "s": ""},
    {"a": 1, "m": "abc"},
    {"a": 3, "m": ""},
]
EXTRAS: list[dict[str, Any]] = [{"colour": "red", "size": 3}, {"colour": "blue"}, {"size": 3.5}, {"a b": 1}]


def shelf(*, nullable: bool = False) -> Recipe:
    """A dozen rows with every sort of scalar that filters know."""
    fields = [
        key_field(),
        FieldSchema("flag", DataType.BOOL),
        FieldSchema("small", DataType.INT8),
        FieldSchema("medium", DataType.INT32),
        FieldSchema("large", DataType.INT64),
        FieldSchema("ratio", DataType.FLOAT),
        FieldSchema("precise", DataType.DOUBLE),
        FieldSchema("text", DataType.VARCHAR, max_length=200),
        FieldSchema("meta", DataType.JSON),
        vector_field(),
    ]
    if nullable:
        fields += [
            FieldSchema("maybe", DataType.INT64, nullable=True),
            FieldSchema("word", DataType.VARCHAR, max_length=20, nullable=True),
            FieldSchema("loose", DataType.JSON, nullable=True),
        ]
    large = [-(2**63), 2**63 - 1, 2**53, 2**53 + 1, 0, 1, 2, 3, 4, 5, 6, 7]

    def row(at: int) -> dict[str, Any]:
        values = {
            "id": at,
            "flag": at % 2 == 0,
            "small": [-128, 127, *range(10)][at],
            "medium": [-(2**31), 2**31 - 1, *range(10)][at],
            "large": large[at],
            "ratio": [0.125, 0.5, -0.0, 0.0, 1.0, 16777216.0, 3.4e38, 1.5, 2.0, -1.5, 1e-40, 7.0][at],
            "precise": [0.1, 0.5, -0.0, 0.0, 1.0, 2.0**53, 1.7e308, 1.5, 2.0, -1.5, 5e-324, 7.0][at],
            "text": TEXTS[at],
            "meta": JSONS[at],
            "vector": vector_of(at),
            **EXTRAS[at % len(EXTRAS)],
        }
        if nullable:
            values["maybe"] = None if at % 3 == 0 else at
            values["word"] = None if at % 4 == 0 else TEXTS[at][:9]
            values["loose"] = None if at % 5 == 0 else {"a": at}
        return values

    return Recipe(fields, [row(at) for at in range(12)], dynamic=True)


EVERYWHERE = [
    "medium > 3",
    "medium >= -2147483648",
    "small == 300",
    "small < 300",
    "large == 9223372036854775807",
    "large == 9007199254740993",
    "medium == -1",
    "medium == - 1",
    "medium == --1",
    "medium in [1, 2, 3]",
    "medium in [1, 2,]",
    "medium in []",
    "medium not in []",
    "medium not in [1, 2]",
    "small in [1, 300]",
    "4 > medium",
    "ratio == 0.5",
    "ratio == 0",
    "ratio < 0.1",
    "ratio < 1e39",
    "precise == 0.1",
    "precise == 1",
    "precise == -0.0",
    "precise in [1, 0.5]",
    "precise == 5E-1",
    "precise > 1e308",
    "flag == true",
    "flag != True",
    "flag in [true]",
    "text == 'apple'",
    'text == ""',
    'text > "apple"',
    'text < "b"',
    r'text == "a\\b"',
    r'text == "q\"u"',
    r"text == 'q\'u'",
    "text == 'q\"u'",
    r'text == "line\nbreak"',
    'text == "äpfel"',
    'text == "🐍x"',
    'text like "ap%"',
    'text like "apple"',
    'text like "line%"',
    "text in [\"apple\", 'Apple']",
    'text not in ["apple", ""]',
    'not (text like "ap%")',
    "medium > 1 and medium < 4",
    "medium > 1 && medium < 4",
    "medium == 1 or medium == 2",
    "medium == 1 || medium == 2",
    "medium == 1 or medium == 2 and flag == true",
    "!(medium == 1)",
    "not (medium == 1) and flag == false",
    "((medium == 1))",
    "( medium==1)and(small==1)",
    "medium < large",
    "medium == small",
    "ratio < precise",
    'meta["a"] == 1',
    'meta["a"] == 1.0',
    'meta["a"] != 1',
    'meta["a"] > 0',
    'meta["a"] < 1.5',
    'meta["a"] == "1"',
    'meta["a"] != "1"',
    'meta["o"]["k"][1] == 2',
    'meta["a"]["b"]["c"] == 7',
    'meta["m"] == 9007199254740993',
    'meta["m"] > 9007199254740992',
    'meta["m"] < "b"',
    'meta["s"] like "x%"',
    'meta["s"] == ""',
    'colour == "red"',
    '$meta["colour"] == "blue"',
    '$meta["a b"] == 1',
    "size > 3",
    'size == "3"',
    "absent == 1",
    'colour like "r%"',
    'colour in ["red"]',
]
"""What Milvus 2.3.5, Milvus Lite and a backup agree about."""

ON_LITE = [
    "medium > 1.5",
    "medium == 1.0",
    "medium in [1.0, 2.5]",
    "large == -9223372036854775808",
    "flag",
    "not flag",
    "medium > 1 AND NOT (medium == 2)",
    "not medium == 1",
    'text like "%le"',
    'text like "a%e"',
    'text like "ap_le"',
    r'text like "ap\\%le"',
    'text like "_x"',
    r'text like "a\\\\b"',
    'text like "%"',
    'text like ""',
    'colour != "red"',
    'not (colour == "red")',
    "colour is null",
    "colour is not null",
    'meta["s"] is null',
    "maybe is null",
    "maybe IS NOT NULL",
    "maybe != 1",
    "not (maybe > 3)",
    "maybe == 1 or id == 0",
    "not (maybe == 1 and id == 0)",
    "not (maybe == 1 or id == 0)",
    'word like "a%"',
    'not (word like "a%")',
    'word != "apple"',
    "loose is null",
    'loose["a"] != 1',
    'loose["b"] is null',
    'loose["b"] != 1',
]
"""What Milvus Lite has beyond 2.3.5."""

ON_SERVER = [
    "1 < medium < 4",
    "4 >= medium > 1",
    "1 < size < 4",
    "medium == 0x02",
    "medium == +1",
    "ratio in [0.125, 16777217]",
    "precise == 9007199254740993",
    r'text == "\u00e4pfel"',
    r'text == "\x61pple"',
    r'text == "\141pple"',
    "precise == .5",
    'meta["a"] in [1, 2]',
    'meta["a"] in ["1"]',
    'meta["a"] == 1 and not (meta["s"] == "x")',
]
"""What 2.3.5 has beyond Milvus Lite."""

DIFFERENT = {
    # filter → rows of a backup, of Milvus Lite, of 2.3.5; None: refused
    "ratio == 0.1": ([], [], []),
    'colour != "red"': ([1, 5, 9], [1, 5, 9], [1, 2, 3, 5, 6, 7, 9, 10, 11]),
    'text like "_x"': ([10], [10], []),
    'meta["s"] is null': ([2, 3, 4, 5, 6, 7, 10, 11], [2, 3, 4, 5, 6, 7, 10, 11], None),
    'colour not in ["red"]': ([1, 5, 9], [1, 2, 3, 5, 6, 7, 9, 10, 11], [1, 2, 3, 5, 6, 7, 9, 10, 11]),
    'exists meta["s"]': (None, [0, 1, 8, 9], [0, 1, 8, 9]),
    "medium % 2 == 1": (None, None, [1, 3, 5, 7, 9, 11]),
}
"""Where they differ, each as it is."""


def on_server(client, name: str, text: str) -> list[int] | None:
    try:
        found = client.query(name, filter=text, limit=100, output_fields=["id"], consistency_level="Strong")
    except MilvusException:
        return None
    return sorted(row["id"] for row in found)


async def on_backup(manager: BackupManager, backup_id: str, text: str) -> list[int] | None:
    try:
        with await manager.open_backup(backup_id, columns=["id"], where=text) as reader:
            return pa.table(reader)["id"].to_pylist()
    except InvalidArgumentError:
        return None


async def compare(milvus, connect, name: str, root, recipe: Recipe, filters: list[str], column: int) -> None:
    create(milvus.client, name, recipe)
    async with connect(milvus) as manager:
        backup = await manager.create_backup(name)
        backup.raise_for_error()
    async with BackupManager.connect(None, root) as manager:
        disagreements = []
        for text in filters:
            there, here = on_server(milvus.client, name, text), await on_backup(manager, backup.backup_id, text)
            if there != here or there is None:
                disagreements.append((text, there, here))
        assert disagreements == []
        for text, found in DIFFERENT.items():
            assert await on_backup(manager, backup.backup_id, text) == found[0], text
            assert on_server(milvus.client, name, text) == found[column], text


@pytest.mark.embedded
async def test_a_filter_means_what_it_means_on_milvus_lite(lite, connect, name, root):
    await compare(lite, connect, name, root, shelf(nullable=True), EVERYWHERE + ON_LITE, 1)


@pytest.mark.server
async def test_a_filter_means_what_it_means_on_a_server(server, connect, name, root):
    await compare(server, connect, name, root, shelf(), EVERYWHERE + ON_SERVER, 2)
