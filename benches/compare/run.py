"""Lines the measurements up: interleaved rounds, a process each, the median of each kind.

Ratios are within one run, on one machine, with the server on the same cores: they compare ways of doing the same work,
not machines. A Milvus server measured here runs on its own default settings.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from benches.compare import data, scale
from benches.compare.table import markdown
from benches.compare.wire import Wire
from tests.servers import s3s_fs, versitygw
from tests.servers.milvus_235 import Milvus235
from tests.servers.milvus_lite import MilvusLiteServer
from tests.servers.s3 import S3Server

COLLECTION, TARGET, SMALL_ROWS = "bench", "bench_target", 100_000
TOOLS = Path(__file__).parents[2] / "target" / "test-tools"


@dataclass
class Series:
    """All measurements of one kind."""

    part: str
    what: str
    rows: int
    runs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Bench:
    """One server and what has been measured on it."""

    options: argparse.Namespace
    kind: str
    rows: int
    uri: str
    root: Path
    series: dict[str, Series] = field(default_factory=dict)

    @property
    def page_rows(self) -> int:
        """Rows a page: what Milvault asks each kind of server for with vectors of 128 numbers."""
        return self.options.page_rows or (8192 if self.kind == "server" else 65_536)

    def measure(self, key: str, part: str, what: str, function: str, **job: Any) -> dict[str, Any] | None:
        """Runs one measurement; None, with the reason on stderr, where it fails."""
        job = {
            "uri": self.uri,
            "collection": COLLECTION,
            "target": TARGET,
            "rows": self.rows,
            "dim": self.options.dim,
            "page_rows": self.page_rows,
            "batch_rows": self.options.batch_rows,
            "ranges": 1,
            "root": str(self.root),
            **job,
        }
        command = [sys.executable, "-W", "ignore", "-m", "benches.compare.measure", function, json.dumps(job)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{key}: failed\n{done.stderr[-2000:]}", file=sys.stderr)
            return None
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.series.setdefault(key, Series(part, what, job["rows"])).runs.append(outcome)
        print(f"  {key:<28} {outcome['seconds']:8.2f} s  {outcome['peak_mib']:6.0f} MiB", file=sys.stderr)
        return outcome

    def export(self) -> str | None:
        """Interleaved exports; the id of the last backup, which restores go on with."""
        backup = None
        for turn in range(self.options.repeat):
            print(f"{self.kind}: export {turn + 1} of {self.options.repeat}", file=sys.stderr)
            self.measure("export raw", "export", "raw Query RPC, bytes thrown away", "export_raw")
            self.measure("export raw, 2 ranges", "export", "the same, two key ranges", "export_raw", ranges=2)
            if self.options.milvault:
                shutil.rmtree(self.root, ignore_errors=True)
                what = "**milvault create_backup**"
                made = self.measure("export milvault", "export", what, "export_milvault")
                backup = made and made["backup_id"]
            if turn < self.options.slow_repeat:
                for key, rows in (("export iterator", 1000), ("export iterator, large pages", self.page_rows)):
                    what = f"pymilvus query_iterator into pyarrow, batch_size {rows:,}"
                    self.measure(key, "export", what, "export_iterator", page_rows=rows)
        return backup

    def restore(self, backup: str | None) -> None:
        """Interleaved restores, each into a new collection that goes away again."""
        for turn in range(self.options.repeat):
            print(f"{self.kind}: restore {turn + 1} of {self.options.repeat}", file=sys.stderr)
            with self.new_target():
                self.measure("restore raw", "restore", "raw Insert RPC of ready batches, flush", "restore_raw")
            for verify, what in (("NONE", "without read-back"), ("DIGEST", "with its proof by digest")):
                if backup:
                    with self.new_target():
                        self.measure(
                            f"restore milvault {verify}",
                            "restore",
                            f"**milvault restore_backup**, {what}",
                            "restore_milvault",
                            backup_id=backup,
                            verify_after=verify,
                        )
            if turn < self.options.slow_repeat:
                with self.new_target():
                    self.measure("restore pymilvus", "restore", "pymilvus insert, flush", "restore_pymilvus")

    def stores(self) -> None:
        """Interleaved backups to the local disk and to S3 on loopback, and the upload of the same files alone."""
        for turn in range(self.options.repeat):
            print(f"{self.kind}: stores {turn + 1} of {self.options.repeat}", file=sys.stderr)
            shutil.rmtree(self.root, ignore_errors=True)
            made = self.measure("store local", "stores", "create_backup to a folder", "export_milvault")
            folder = made and str(self.root / COLLECTION / made["backup_id"])
            with s3_bucket(self.options.s3, self.root.parent / f"s3-{turn}") as storage_options:
                bucket = {"bucket": "bench", "storage_options": storage_options}
                alone = {"folder": folder, **bucket}
                self.measure("store upload", "stores", "boto3, the same files alone", "upload_files", **alone)
                there = {"root": f"s3://bench/turn-{turn}", **bucket}
                self.measure("store s3", "stores", "**create_backup to S3**", "export_milvault", **there)

    def memory(self) -> None:
        """Peaks at 100,000 rows, to set beside those of the whole size."""
        if not self.options.milvault or self.rows <= SMALL_ROWS:
            return
        small, name = self.root.parent / "small", f"{COLLECTION}_small"
        data.ready(self.uri, name, SMALL_ROWS, self.options.dim)
        for turn in range(self.options.repeat):
            print(f"{self.kind}: memory {turn + 1} of {self.options.repeat}", file=sys.stderr)
            shutil.rmtree(small, ignore_errors=True)
            job = {"collection": name, "rows": SMALL_ROWS, "root": str(small)}
            made = self.measure("export small", "memory", "create_backup", "export_milvault", **job)
            if made:
                job |= {"backup_id": made["backup_id"], "verify_after": "DIGEST"}
                with self.new_target():
                    self.measure("restore small", "memory", "restore_backup", "restore_milvault", **job)

    @contextlib.contextmanager
    def new_target(self) -> Iterator[None]:
        """The target does not exist before, nor after; and what the server tidies up does not fall on the next."""
        client = MilvusClient(self.uri)
        client.drop_collection(TARGET)
        yield
        client.drop_collection(TARGET)
        client.close()
        time.sleep(2)
        data.settle(Wire(self.uri), COLLECTION, quiet=3)


def main() -> None:
    """Measures, prints the table, and saves everything as JSON."""
    options = arguments()
    sizes = {"server": options.rows or 1_000_000, "lite": options.lite_rows or options.rows or 100_000}
    if "scale" in options.parts:
        print(asyncio.run(scale.measure(scale.COUNT)))
        if options.parts == ["scale"]:
            return
    base = Path(tempfile.mkdtemp(prefix="milvault-bench-"))
    benches = []
    try:
        for kind in ("server", "lite"):
            if options.server in (kind, "both"):
                benches.append(one_server(options, kind, sizes[kind], base / kind))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    report = {
        "machine": {
            "cores": os.cpu_count(),
            "python": sys.version.split()[0],
            "time": time.strftime("%FT%TZ", time.gmtime()),
        },
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "servers": {
            bench.kind: {"rows": bench.rows, "series": {key: asdict(series) for key, series in bench.series.items()}}
            for bench in benches
        },
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    print(markdown(report))


@contextlib.contextmanager
def s3_bucket(kind: str, base: Path) -> Iterator[dict[str, str]]:
    """A bucket `bench` on an S3 server of its own; the options that reach it."""
    base.mkdir()
    server: S3Server | s3s_fs.S3sFs | versitygw.VersityGateway
    if kind == "versitygw":
        server = versitygw.VersityGateway(versitygw.install(TOOLS / "versitygw"), base).start("bench")
    elif kind == "s3s-fs":
        server = s3s_fs.S3sFs(s3s_fs.install(TOOLS / "s3s-fs"), base).start("bench")
    else:
        server = S3Server(base).start()
        server.client().create_bucket(Bucket="bench")
    try:
        yield server.options
    finally:
        server.stop()
        shutil.rmtree(base)


def one_server(options: argparse.Namespace, kind: str, rows: int, base: Path) -> Bench:
    """Everything on one server, which is started for it and ended after."""
    server = Milvus235(base / "milvus", {"log.level": "warn"}) if kind == "server" else MilvusLiteServer(base / "lite")
    server.start()
    try:
        bench = Bench(options, kind, rows, server.uri, base / "backups")
        print(f"{kind}: making {rows:,} rows × {options.dim} and letting them settle", file=sys.stderr)
        data.ready(server.uri, COLLECTION, rows, options.dim)
        backup = bench.export() if "export" in options.parts or "restore" in options.parts else None
        if "restore" in options.parts:
            bench.restore(backup)
        if "stores" in options.parts:
            bench.stores()
        if "memory" in options.parts:
            bench.memory()
        return bench
    finally:
        server.stop()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benches.compare", description=__doc__)
    parser.add_argument("--server", choices=["server", "lite", "both"], default="both", help="Milvus 2.3.5, Lite, both")
    parser.add_argument("--rows", type=int, help="default: 1,000,000 on the server, 100,000 on Lite")
    parser.add_argument("--lite-rows", type=int, help="rows on Lite where they are to differ from --rows")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--slow-repeat", type=int, default=5, help="rounds that pymilvus takes part in")
    parser.add_argument("--page-rows", type=int, help="rows a page of scans; default: as Milvault asks for")
    parser.add_argument(
        "--batch-rows",
        type=int,
        default=8000,
        help="rows a batch of raw and pymilvus inserts; default: as Milvault sends",
    )
    parser.add_argument(
        "--parts", nargs="+", default=["scale", "export", "restore", "stores", "memory"], metavar="PART"
    )
    parser.add_argument(
        "--s3",
        choices=["versitygw", "s3s-fs", "moto"],
        default="versitygw" if shutil.which("go") else "moto",
        help="the S3 server; versitygw (Go) and s3s-fs (Rust) are built once, which takes minutes; moto is in Python",
    )
    parser.add_argument("--baselines-only", dest="milvault", action="store_false", help="leave Milvault out")
    parser.add_argument("--json", type=Path, help="where to save every measurement")
    return parser.parse_args()
