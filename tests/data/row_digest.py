"""An independent reading of "Row digest" in src/digest.rs: prints the values that its known-answer tests expect.

Run it where the package xxhash is installed: `python tests/data/row_digest.py`. Nothing of Milvault is imported.
"""

import json
import math
import struct

import xxhash

TAGS = {
    "bool": 1,
    "int8": 2,
    "int16": 3,
    "int32": 4,
    "int64": 5,
    "float": 10,
    "double": 11,
    "varchar": 21,
    "array": 22,
    "json": 23,
    "geometry": 24,
    "timestamptz": 26,
    "binary_vector": 100,
    "float_vector": 101,
    "float16_vector": 102,
    "bfloat16_vector": 103,
    "sparse_float_vector": 104,
    "int8_vector": 105,
}
PACK = {"bool": "<?", "int8": "<b", "int16": "<h", "int32": "<i", "int64": "<q", "float": "<I", "double": "<Q",
        "timestamptz": "<q"}  # floats are given by their bits  # fmt: skip


class Whole(str):
    """A whole number of a JSON text, as written."""

    __slots__ = ()


class Broken(str):
    """A number with a point or an exponent, as written."""

    __slots__ = ()


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def canonical_json(value: object) -> bytes:
    if value is None or value is True or value is False:
        return {None: b"n", True: b"t", False: b"f"}[value]
    if isinstance(value, Broken) and math.isfinite(float(value)):
        return b"." + struct.pack("<d", float(value))
    if isinstance(value, (Whole, Broken)):
        digits = b"0" if value == "-0" else value.encode()
        return b"#" + u32(len(digits)) + digits
    if isinstance(value, str):
        text = value.encode()  # raises UnicodeEncodeError on half of a surrogate pair
        return b'"' + u32(len(text)) + text
    if isinstance(value, list):
        return b"[" + u32(len(value)) + b"".join(map(canonical_json, value))
    assert isinstance(value, dict)
    members = sorted((canonical_json(key)[5:], key) for key in value)
    return b"{" + u32(len(value)) + b"".join(canonical_json(key) + canonical_json(value[key]) for _, key in members)


def refuse(word: str) -> object:
    raise ValueError(word)


def one_nan(kind: str, bits: int) -> int:
    """The bits of a float or double; those of the one NaN for any NaN."""
    signs, infinity, nan = (0x7FFFFFFF, 0x7F800000, 0x7FC00000)
    if kind == "double":
        signs, infinity, nan = (1 << 63) - 1, 0x7FF << 52, 0xFFF << 51
    return nan if bits & signs > infinity else bits


def value_of(kind: str, value: object) -> tuple[int, bytes]:
    """The type tag and the value's bytes."""
    tag = TAGS[kind.split("<", maxsplit=1)[0]]
    if kind in ("float", "double"):
        return tag, struct.pack(PACK[kind], one_nan(kind, value))
    if kind in PACK:
        return tag, struct.pack(PACK[kind], value)
    if kind in ("varchar", "geometry"):
        return tag, value.encode()
    if kind == "json":
        try:
            parsed = json.loads(value, parse_int=Whole, parse_float=Broken, parse_constant=refuse)
            return tag, canonical_json(parsed)
        except ValueError:
            return tag + 128, value.encode()
    if kind.startswith("array<"):
        element = kind[6:-1]
        items = [value_of(element, item)[1] for item in value]
        if element == "varchar":
            items = [u32(len(item)) + item for item in items]
        return tag, bytes([TAGS[element]]) + u32(len(items)) + b"".join(items)
    if kind == "sparse_float_vector":
        pairs = sorted(value, key=lambda pair: pair[0])
        return tag, u32(len(pairs)) + b"".join(u32(index) + u32(bits) for index, bits in pairs)
    element = {"float_vector": "<I", "float16_vector": "<H", "int8_vector": "<b"}.get(kind, "<B")
    return tag, b"".join(struct.pack(element, item) for item in value)


def row_digest(row: dict[str, tuple[str, object]]) -> int:
    out = b""
    for name in sorted(row, key=str.encode):
        kind, value = row[name]
        tag, payload = (TAGS[kind.split("<")[0]], b"") if value is None else value_of(kind, value)
        out += u32(len(name.encode())) + name.encode() + bytes([tag])
        out += b"\0" if value is None else b"\1" + u32(len(payload)) + payload
    return xxhash.xxh3_128_intdigest(out)


ONE, MINUS_ZERO, NAN = 0x3F800000, 0x80000000, 0x7FC00001
NANS = [0x7FF8 << 48, 0x7FF8 << 48 | 1, 0xFFF0 << 48 | 7]  # no payload; as Go has it; negative and signalling
CASES: dict[str, list[dict[str, tuple[str, object]]]] = {
    "key and vector": [
        {"id": ("int64", key), "v": ("float_vector", [ONE, MINUS_ZERO, NAN])} for key in (1, -2, 1 << 62)
    ],
    "scalars": [
        {
            "key": ("varchar", '🐍\0"\\'), "bool": ("bool", True), "int8": ("int8", -8), "int16": ("int16", -16),
            "int32": ("int32", -32), "größe": ("int64", -64), "Float": ("float", NAN),
            "double": ("double", 0x8000000000000000), "time": ("timestamptz", -1), "where": ("geometry", "POINT (1 2)"),
            "gone": ("int32", None),
        }
    ],
    "json": [
        {"key": ("int64", 0), "$meta": ("json", text)}
        for text in (
            ' { "b" : [ true , null, -1.50 ] , "a\\u00e9\\ud83d\\udc0d":{"z":1e5,"y":"\\n\\/"},"b":[] } ',
            "", '{"a":', '"\\ud83d"', "[NaN]", "null",
        )
    ],
    "arrays": [
        {
            "key": ("int64", 0), "bools": ("array<bool>", [True, False, True]), "ints": ("array<int32>", [1, -1]),
            "texts": ("array<varchar>", ["", "é", "\0"]), "doubles": ("array<double>", NANS),
            "none": ("array<int64>", None),
        }
    ],
    "vectors": [
        {
            "key": ("int64", 0), "half": ("float16_vector", [0x3C00, 0x7E01]),
            "brain": ("bfloat16_vector", [1, 2, 3, 4]),
            "bits": ("binary_vector", [0xA5, 0x01]), "bytes": ("int8_vector", [-1, 0, 1]),
            "sparse": ("sparse_float_vector", [(7, ONE), (3, NAN), (4_000_000_000, MINUS_ZERO)]),
        }
    ],
}  # fmt: skip

if __name__ == "__main__":
    for name, rows in CASES.items():
        digests = [row_digest(row) for row in rows]
        for digest in digests:
            print(f"{name}: {digest:032x}")
        print(f"{name}, set of {len(rows)}: {sum(digests) % (1 << 128):032x}")
