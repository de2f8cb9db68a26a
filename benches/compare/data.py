"""The collection that is measured: dense int64 keys from 0 and random float32 vectors, loaded and settled."""

from __future__ import annotations

import time

import numpy as np
from pymilvus import DataType, MilvusClient

from benches.compare.wire import Wire, batches, insert_all, insert_request

CHUNK = 100_000


def vectors(start: int, end: int, dim: int) -> np.ndarray:
    """The vectors of rows start to end, the same at every call; seeded for each hundred thousand rows."""
    parts = []
    for chunk in range(start // CHUNK, (end + CHUNK - 1) // CHUNK):
        rows = min(end - chunk * CHUNK, CHUNK)
        part = np.random.default_rng(chunk).standard_normal((rows, dim), dtype=np.float32)
        parts.append(part[max(start - chunk * CHUNK, 0) :])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def create_empty(client: MilvusClient, name: str, dim: int) -> None:
    """The collection without rows or index, replacing one of that name."""
    if client.has_collection(name):
        client.drop_collection(name)
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    client.create_collection(name, schema=schema)


def requests(name: str, rows: int, dim: int, batch_rows: int) -> list[bytes]:
    """All insert requests, ready made."""
    return [insert_request(name, np.arange(a, b), vectors(a, b, dim)) for a, b in batches(rows, batch_rows)]


def ready(uri: str, name: str, rows: int, dim: int, *, settled: bool = True, flushes: int = 1) -> None:
    """Makes the collection, waits until compaction has settled, and loads it. Does nothing where it is there.

    It is flushed so many times while it is filled: each makes a segment for each of its two shards.
    """
    client, wire = MilvusClient(uri), Wire(uri)
    if client.has_collection(name) and _count(client, name) == rows:
        return
    create_empty(client, name, dim)
    all_batches = list(batches(rows, 10_000))
    share = -(-len(all_batches) // flushes)
    for at in range(0, len(all_batches), share):
        some = all_batches[at : at + share]
        insert_all(wire, (insert_request(name, np.arange(a, b), vectors(a, b, dim)) for a, b in some))
        wire.flush(name)
    params = client.prepare_index_params()
    params.add_index("vector", index_type="FLAT", metric_type="L2")
    client.create_index(name, params)
    if settled:
        settle(wire, name)
    client.load_collection(name)
    if settled:
        settle(wire, name, quiet=5)
    found = _count(client, name)
    if found != rows:
        raise RuntimeError(f"{name} holds {found:,} rows, not {rows:,}")


def settle(wire: Wire, name: str, *, quiet: float = 20) -> None:
    """Waits until the segments have stayed the same for so many seconds: compaction would slow what is measured."""
    from pymilvus.grpc_gen import milvus_pb2

    last, since = None, time.monotonic()
    while time.monotonic() - since < quiet:
        try:
            answer = wire.call(
                "GetPersistentSegmentInfo",
                milvus_pb2.GetPersistentSegmentInfoRequest(collectionName=name),
                milvus_pb2.GetPersistentSegmentInfoResponse,
            )
        except Exception:  # Milvus Lite has no such call, and compacts while it writes
            return
        now = sorted((info.segmentID, info.state, info.num_rows) for info in answer.infos)
        if now != last:
            last, since = now, time.monotonic()
        time.sleep(1)


def _count(client: MilvusClient, name: str) -> int:
    try:
        return int(client.query(name, "", output_fields=["count(*)"], consistency_level="Strong")[0]["count(*)"])
    except Exception:  # not loaded: an earlier run was cut short
        return -1
