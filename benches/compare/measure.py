"""One measurement in a process of its own: `python -m benches.compare.measure NAME JSON` prints a line of JSON.

Times begin when everything is imported and connected and end when the last row is where it has to be. `peak_mib` is
the process's own high-water mark of memory (VmHWM); the server is another process.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any


def export_raw(job: dict[str, Any]) -> dict[str, Any]:
    """The Query RPC, page after page in key order, its bytes thrown away; `ranges` of the keys side by side."""
    from benches.compare.wire import Wire, scan

    wire, totals = Wire(job["uri"]), []
    _wait_for_consistency(job)
    bounds = [job["rows"] * part // job["ranges"] for part in range(job["ranges"] + 1)]

    def one(low: int, high: int) -> None:
        for page in scan(wire, job["collection"], page_rows=job["page_rows"], low=low, high=high):
            totals.append(len(page))

    threads = [threading.Thread(target=one, args=pair) for pair in zip(bounds, bounds[1:], strict=False)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"seconds": time.perf_counter() - begun, "bytes": sum(totals), "pages": len(totals)}


def export_iterator(job: dict[str, Any]) -> dict[str, Any]:
    """What one writes today: pymilvus's query_iterator, each page into a pyarrow batch."""
    import pyarrow as pa
    from pymilvus import MilvusClient

    client = MilvusClient(job["uri"])
    vector = pa.list_(pa.float32(), job["dim"])
    rows = 0
    begun = time.perf_counter()
    iterator = client.query_iterator(job["collection"], batch_size=job["page_rows"], output_fields=["id", "vector"])
    while page := iterator.next():
        batch = pa.record_batch(
            [pa.array([row["id"] for row in page], pa.int64()), pa.array([row["vector"] for row in page], vector)],
            names=["id", "vector"],
        )
        rows += batch.num_rows
    iterator.close()
    return {"seconds": time.perf_counter() - begun, "rows": rows}


def export_milvault(job: dict[str, Any]) -> dict[str, Any]:
    """A backup at default settings, fsync, checksums and the check of them included."""

    async def run() -> dict[str, Any]:
        async with _manager(job) as manager:
            begun = time.perf_counter()
            result = await manager.create_backup(job["collection"])
            seconds = time.perf_counter() - begun
            result.raise_for_error()
            return {
                "seconds": seconds,
                "rows": result.row_count,
                "bytes": result.size_bytes,
                "backup_id": result.backup_id,
                "timings": getattr(result, "timings", None),
            }

    return asyncio.run(run())


def upload_files(job: dict[str, Any]) -> dict[str, Any]:
    """A backup's files as they are into a bucket, by boto3 at its defaults: multipart, ten threads."""
    import boto3

    options = job["storage_options"]
    client = boto3.client(
        "s3",
        endpoint_url=options["aws_endpoint"],
        aws_access_key_id=options["aws_access_key_id"],
        aws_secret_access_key=options["aws_secret_access_key"],
        region_name=options["aws_region"],
    )
    folder = Path(job["folder"])
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    begun = time.perf_counter()
    for path in files:
        client.upload_file(str(path), job["bucket"], f"alone/{path.relative_to(folder)}")
    return {"seconds": time.perf_counter() - begun, "bytes": sum(path.stat().st_size for path in files)}


def restore_milvault(job: dict[str, Any]) -> dict[str, Any]:
    """A restore at default settings but for `verify_after`."""
    from milvault import RestoreParams

    async def run() -> dict[str, Any]:
        async with _manager(job) as manager:
            params = RestoreParams(target_collection_name=job["target"], verify_after=job["verify_after"])
            begun = time.perf_counter()
            result = await manager.restore_backup(job["backup_id"], job["collection"], params)
            seconds = time.perf_counter() - begun
            result.raise_for_error()
            return {
                "seconds": seconds,
                "rows": result.rows_restored,
                "timings": getattr(result, "timings", None),
                "passed": result.verification_passed,
            }

    return asyncio.run(run())


def restore_raw(job: dict[str, Any]) -> dict[str, Any]:
    """The Insert RPC with ready-made requests, two in flight, and a flush."""
    from pymilvus import MilvusClient

    from benches.compare.data import create_empty, requests
    from benches.compare.wire import Wire, insert_all

    wire = Wire(job["uri"])
    create_empty(MilvusClient(job["uri"]), job["target"], job["dim"])
    ready = requests(job["target"], job["rows"], job["dim"], job["batch_rows"])
    begun = time.perf_counter()
    rows = insert_all(wire, ready)
    inserted = time.perf_counter()
    wire.flush(job["target"])
    ended = time.perf_counter()
    return {
        "seconds": ended - begun,
        "rows": rows,
        "timings": {"inserting": inserted - begun, "flushing": ended - inserted},
    }


def restore_pymilvus(job: dict[str, Any]) -> dict[str, Any]:
    """What one writes today: MilvusClient.insert of rows, in batches, and a flush. The rows wait in memory."""
    from pymilvus import MilvusClient

    from benches.compare.data import create_empty, vectors
    from benches.compare.wire import batches

    client, seconds, rows = MilvusClient(job["uri"]), 0.0, 0
    create_empty(client, job["target"], job["dim"])
    for start, end in batches(job["rows"], job["batch_rows"]):
        some = zip(range(start, end), vectors(start, end, job["dim"]), strict=True)
        batch = [{"id": key, "vector": vector} for key, vector in some]
        begun = time.perf_counter()
        rows += client.insert(job["target"], batch)["insert_count"]
        seconds += time.perf_counter() - begun
    begun = time.perf_counter()
    client.flush(job["target"])
    return {"seconds": seconds + time.perf_counter() - begun, "rows": rows}


def _manager(job: dict[str, Any]):
    from milvault import BackupManager

    return BackupManager.connect(job["uri"], job["root"], storage_options=job.get("storage_options"))


def _wait_for_consistency(job: dict[str, Any]) -> None:
    from pymilvus import MilvusClient

    MilvusClient(job["uri"]).query(job["collection"], "", output_fields=["count(*)"], consistency_level="Strong")


def peak_mib() -> float:
    """The most memory that this process ever held, in MiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


if __name__ == "__main__":
    outcome = globals()[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps({**outcome, "peak_mib": peak_mib()}))
