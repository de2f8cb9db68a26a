"""Milvus's RPCs with their bytes left alone: what the server and the wire can do when a client does nothing.

Requests are built with pymilvus's messages, but for vectors, whose wire form is little-endian float32 as numpy holds
them. Answers are not decoded; of a page, only the last key is read, to know where the next begins.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from urllib.parse import urlparse

import grpc
import numpy as np
from pymilvus.grpc_gen import common_pb2, milvus_pb2, schema_pb2

SERVICE = "/milvus.proto.milvus.MilvusService/"
INT64, FLOAT_VECTOR = 5, 101
EVENTUALLY = 3


class Wire:
    """A channel on which a request is bytes and so is its answer."""

    def __init__(self, uri: str) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(urlparse(uri).netloc, options=options)
        self.query = self._method("Query")
        self.insert = self._method("Insert")

    def _method(self, name: str) -> grpc.UnaryUnaryMultiCallable:
        return self.channel.unary_unary(SERVICE + name)

    def call(self, name: str, request, answer):
        """An ordinary call, decoded, for everything that is not measured."""
        raw = self._method(name)(request.SerializeToString(), timeout=600)
        message = answer.FromString(raw)
        status = message if isinstance(message, common_pb2.Status) else message.status
        if status.code or status.error_code:
            raise RuntimeError(f"{name}: {status.code or status.error_code} {status.reason}")
        return message

    def flush(self, collection: str) -> None:
        """Flush, and wait until it is done; Milvus Lite is done when it answers."""
        answer = self.call("Flush", milvus_pb2.FlushRequest(collection_names=[collection]), milvus_pb2.FlushResponse)
        if collection not in answer.coll_flush_ts:
            return
        state = milvus_pb2.GetFlushStateRequest(
            segmentIDs=answer.coll_segIDs[collection].data,
            flush_ts=answer.coll_flush_ts[collection],
            collection_name=collection,
        )
        while not self.call("GetFlushState", state, milvus_pb2.GetFlushStateResponse).flushed:
            time.sleep(0.1)


def scan(wire: Wire, collection: str, *, page_rows: int, low: int, high: int) -> Iterator[bytes]:
    """Pages of the rows with low <= id < high, in key order, as the bytes that came."""
    params = {"limit": str(page_rows), "iterator": "True", "reduce_stop_for_best": "True"}
    request = milvus_pb2.QueryRequest(
        collection_name=collection,
        output_fields=["id", "vector"],
        query_params=[common_pb2.KeyValuePair(key=key, value=value) for key, value in params.items()],
        # The count before the scan has waited for consistency once.
        consistency_level=EVENTUALLY,
        guarantee_timestamp=1,
    )
    last = low - 1
    while last < high - 1:
        request.expr = f"id > {last} and id < {high}"
        page = wire.query(request.SerializeToString(), timeout=600)
        found = last_key(page)
        if found is None:
            return
        last = found
        yield page


def last_key(page: bytes) -> int | None:
    """The last int64 key of a page, found without decoding what lies before it."""
    view, keys = memoryview(page), None
    for number, value in fields(view):
        if number == 1:
            status = common_pb2.Status.FromString(bytes(value))
            if status.code or status.error_code:
                raise RuntimeError(f"Query: {status.code} {status.reason}")
        if number == 2:
            column = dict(fields(value))
            if column.get(1) == INT64 and 3 in column:
                (_, longs), *_ = fields(column[3])
                (_, keys), *_ = [*fields(longs), (1, memoryview(b""))]
    if keys is None or not len(keys):
        return None
    start = len(keys) - 1
    while start > 0 and keys[start - 1] & 0x80:
        start -= 1
    return read_varint(keys, start)[0]


def fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a protobuf message, without going into them."""
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        if tag & 7 == 0:
            value, at = read_varint(message, at)
            yield tag >> 3, value
        elif tag & 7 == 2:
            length, at = read_varint(message, at)
            yield tag >> 3, message[at : at + length]
            at += length
        else:
            raise ValueError(f"unexpected wire type {tag & 7}")


def read_varint(data: memoryview, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def varint(value: int) -> bytes:
    """The varint of a number that is not negative."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def nested(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def insert_request(collection: str, ids: np.ndarray, vectors: np.ndarray) -> bytes:
    """A serialised InsertRequest of int64 ids and float32 vectors."""
    keys = schema_pb2.FieldData(type=INT64, field_name="id")
    keys.scalars.long_data.data.extend(ids.tolist())
    floats = nested(2, nested(1, np.ascontiguousarray(vectors, dtype="<f4").tobytes()))
    vector = schema_pb2.VectorField(dim=vectors.shape[1]).SerializeToString() + floats
    column = schema_pb2.FieldData(type=FLOAT_VECTOR, field_name="vector").SerializeToString() + nested(4, vector)
    head = milvus_pb2.InsertRequest(collection_name=collection, num_rows=len(ids))
    return head.SerializeToString() + nested(5, keys.SerializeToString()) + nested(5, column)


def insert_all(wire: Wire, requests: Iterable[bytes], *, in_flight: int = 2) -> int:
    """Sends the requests with so many in flight; the number of rows that the server says it took."""
    waiting: deque[grpc.Future] = deque()
    taken = 0

    def settle() -> int:
        answer = milvus_pb2.MutationResult.FromString(waiting.popleft().result())
        if answer.status.code or answer.status.error_code:
            raise RuntimeError(f"Insert: {answer.status.code} {answer.status.reason}")
        return answer.insert_cnt

    for request in requests:
        if len(waiting) == in_flight:
            taken += settle()
        waiting.append(wire.insert.future(request, timeout=600))
    while waiting:
        taken += settle()
    return taken


def batches(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, end) of each batch."""
    for start in itertools.count(0, size):
        if start >= rows:
            return
        yield start, min(start + size, rows)
