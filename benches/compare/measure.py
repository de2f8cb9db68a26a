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
    from milvault import BackupParams

    async def run() -> dict[str, Any]:
        async with _manager(job) as manager:
            params = BackupParams(source=job.get("source", "auto"))
            begun = time.perf_counter()
            result = await manager.create_backup(job["collection"], params)
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


def native_backup(job: dict[str, Any]) -> dict[str, Any]:
    """A native backup; what flushing took is told apart, and left out of its time."""
    from milvault import BackupParams

    async def run() -> dict[str, Any]:
        async with _manager(job) as manager:
            cpu = time.process_time()
            begun = time.perf_counter()
            result = await manager.create_backup(job["collection"], BackupParams(storage_type="MILVUS_NATIVE"))
            seconds = time.perf_counter() - begun
            cpu = time.process_time() - cpu
            result.raise_for_error()
            timings = result.timings
            return {
                "seconds": seconds - timings.get("flushing", 0.0),
                "cpu": cpu,
                "bytes": result.size_bytes,
                "backup_id": result.backup_id,
                "folder": result.storage_path,
                "timings": timings,
            }

    return asyncio.run(run())


def decode_native(job: dict[str, Any]) -> dict[str, Any]:
    """A native backup's rows as Arrow, batch after batch, each thrown away; the checksums' proof is in it."""

    async def run() -> dict[str, Any]:
        async with _manager(job) as manager:
            with await manager.open_backup(job["backup_id"]) as reader:
                cpu, begun, rows = time.process_time(), time.perf_counter(), 0
                for batch in reader:
                    rows += batch.num_rows
                return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "rows": rows}

    return asyncio.run(run())


def decode_plain(job: dict[str, Any]) -> dict[str, Any]:
    """The same rows from Parquet files, plainly encoded, with pyarrow on one thread; the files are made first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    path = Path(job["folder"]) / f"{job['codec']}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)

        async def write() -> None:
            async with _manager(job) as manager:
                with await manager.open_backup(job["backup_id"]) as reader:
                    schema = pa.schema(reader.schema)
                    with pq.ParquetWriter(path, schema, use_dictionary=False, compression=job["codec"]) as writer:
                        for batch in reader:
                            writer.write_batch(pa.record_batch(batch))

        asyncio.run(write())
    cpu, begun, rows = time.process_time(), time.perf_counter(), 0
    for batch in pq.ParquetFile(path).iter_batches(batch_size=8192, use_threads=False):
        rows += batch.num_rows
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "rows": rows}


def import_segments(job: dict[str, Any]) -> dict[str, Any]:
    """What milvus-backup does: Import of a segment after the other, each asked for its state every three seconds."""
    from pymilvus import MilvusClient, connections, utility

    from benches.compare.data import create_empty

    connections.connect(uri=job["uri"])
    client = MilvusClient(job["uri"])
    create_empty(client, job["target"], job["dim"])
    folders = sorted(Path(job["backup"]).glob("binlogs/insert_log/*/*/*"))
    begun = time.perf_counter()
    for folder in folders:
        deletes = Path(str(folder).replace("insert_log", "delta_log"))
        files = [str(folder), str(deletes) if deletes.exists() else ""]
        task = utility.do_bulk_insert(job["target"], files, partition_name="_default", backup="true")
        while (state := utility.get_bulk_insert_state(task)).state_name != "Completed":
            if "Fail" in state.state_name:
                raise RuntimeError(str(state))
            time.sleep(3)
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, "segments": len(folders)}


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
            params = RestoreParams(
                target_collection_name=job["target"], verify_after=job["verify_after"], via=job.get("via", "AUTO")
            )
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
    from milvault import BackupManager, BackupRecoveryConfig

    config = BackupRecoveryConfig(milvus_storage=job.get("milvus_storage"))
    options = job.get("storage_options")
    return BackupManager.connect(job["uri"], job["root"], storage_options=options, config=config)


def _wait_for_consistency(job: dict[str, Any]) -> None:
    from pymilvus import MilvusClient

    MilvusClient(job["uri"]).query(job["collection"], "", output_fields=["count(*)"], consistency_level="Strong")


def peak_mib() -> float:
    """The most memory that this process ever held, in MiB."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


if __name__ == "__main__":
    outcome = globals()[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps({**outcome, "peak_mib": peak_mib()}))
