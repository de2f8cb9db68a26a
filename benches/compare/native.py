"""Native backups beside what one would otherwise use: `python -m benches.compare.native`.

Milvus 2.3.5 on its default settings and local storage, one collection. Interleaved rounds, a process each:

- a native backup, against `cp -r` of the same files and `sha256sum` of them; flushing is left out of both;
- a Parquet backup of the rows in the same files, against one of the server's answers;
- its rows as Arrow, against pyarrow on plain Parquet files of the same rows, by the processor's time;
- its restore, against Insert requests that are ready and a flush, and against Import of one segment after the other,
  asked for its state every three seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pymilvus import MilvusClient

from benches.compare import data
from benches.compare.run import COLLECTION, TARGET
from tests.servers.milvus_235 import Milvus235


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the median counts")
    parser.add_argument("--slow-repeat", type=int, default=1, help="rounds that Import takes part in")
    parser.add_argument("--parts", nargs="+", default=["backup", "parquet", "decode", "restore"], metavar="PART")
    parser.add_argument(
        "--flushes",
        type=int,
        default=1,
        help="flushes while the collection is filled, of a server that compacts nothing where there are several",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="milvault-native-") as folder:
        base = Path(folder)
        settings = {"dataCoord.compaction.enableAutoCompaction": "false"} if options.flushes > 1 else {}
        server = Milvus235(base / "milvus", settings).start()
        try:
            data.ready(server.uri, COLLECTION, options.rows, options.dim, flushes=options.flushes)
            table(Bench(options, server, base).run(), options)
        finally:
            server.stop()


class Bench:
    """One server, and all that was measured on it."""

    def __init__(self, options: argparse.Namespace, server: Milvus235, base: Path) -> None:
        self.options, self.server, self.base = options, server, base
        self.runs: dict[str, list[dict[str, Any]]] = {}
        client = MilvusClient(server.uri)
        number = client.describe_collection(COLLECTION)["collection_id"]
        self.client = client
        self.files = server.data / "insert_log" / str(number)

    def run(self) -> dict[str, list[dict[str, Any]]]:
        """All rounds."""
        made: dict[str, Any] = {}
        for turn in range(self.options.repeat):
            print(f"round {turn + 1} of {self.options.repeat}", file=sys.stderr)
            made = self._measure("native backup", "native_backup")
            if "backup" in self.options.parts:
                self._copy()
            if "parquet" in self.options.parts:
                for source in ("binlogs", "query"):
                    self._measure(f"Parquet backup, {source}", "export_milvault", source=source)
            if "decode" in self.options.parts:
                self._measure("native to Arrow", "decode_native", backup_id=made["backup_id"])
                plain = {"folder": str(self.base / "plain"), "backup_id": made["backup_id"]}
                for codec in ("none", "zstd"):
                    self._measure(f"pyarrow, plain Parquet, {codec}", "decode_plain", codec=codec, **plain)
            if "restore" in self.options.parts:
                self._restore(turn, made)
            if turn < self.options.repeat - 1:
                subprocess.run(["rm", "-rf", str(self.base / "repository")], check=True)
        return self.runs

    def _restore(self, turn: int, made: dict[str, Any]) -> None:
        self._fresh()
        self._measure("raw Insert, flush", "restore_raw")
        for via in ("INSERT", "IMPORT"):
            for verify in ("NONE", "DIGEST"):
                self._fresh()
                job = {"backup_id": made["backup_id"], "verify_after": verify, "via": via}
                self._measure(f"restore by {via}, proof {verify}", "restore_milvault", **job)
        if turn < self.options.slow_repeat:
            self._fresh()
            self._measure("Import, segment by segment", "import_segments", backup=made["folder"])
        self._fresh()

    def _fresh(self) -> None:
        self.client.drop_collection(TARGET)
        time.sleep(1)

    def _copy(self) -> None:
        target = self.base / "copied"
        subprocess.run(["rm", "-rf", str(target)], check=True)
        begun = time.perf_counter()
        subprocess.run(["cp", "-r", str(self.files), str(target)], check=True)
        copied = time.perf_counter()
        sums = f"find {target} -type f -print0 | xargs -0 sha256sum > {self.base}/sums"
        subprocess.run(sums, shell=True, check=True)
        ended = time.perf_counter()
        outcome = {"seconds": ended - begun, "cpu": 0.0, "peak_mib": 0.0}
        print(f"  cp {copied - begun:.2f} s, sha256sum {ended - copied:.2f} s", file=sys.stderr)
        self.runs.setdefault("cp -r and sha256sum", []).append(outcome)

    def _measure(self, key: str, function: str, **more: Any) -> dict[str, Any]:
        job = {
            "uri": self.server.uri,
            "collection": COLLECTION,
            "target": TARGET,
            "rows": self.options.rows,
            "dim": self.options.dim,
            "batch_rows": 10_000,
            "root": str(self.base / "repository"),
            "milvus_storage": str(self.server.data),
            **more,
        }
        command = [sys.executable, "-W", "ignore", "-m", "benches.compare.measure", function, json.dumps(job)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{key}: failed\n{done.stderr[-4000:]}")
        outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.runs.setdefault(key, []).append(outcome)
        told = f"{outcome['seconds']:8.2f} s  cpu {outcome.get('cpu', 0):6.2f} s  {outcome['peak_mib']:6.0f} MiB"
        print(f"  {key:<34} {told}  {outcome.get('timings') or ''}", file=sys.stderr)
        return outcome


def table(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Medians, as Markdown."""
    print(f"### Native backups: Milvus 2.3.5 on local storage, {options.rows:,} × {options.dim} float32\n")
    print("| what | time, s | processor, s | peak, MiB |\n|---|---:|---:|---:|")
    for key, outcomes in runs.items():
        seconds = sorted(outcome["seconds"] for outcome in outcomes)
        spread = f"{statistics.median(seconds):.2f} ({seconds[0]:.2f} – {seconds[-1]:.2f})"
        cpu = statistics.median(outcome.get("cpu", 0.0) for outcome in outcomes)
        peak = statistics.median(outcome["peak_mib"] for outcome in outcomes)
        print(f"| {key} | {spread} | {cpu:.2f} | {peak:.0f} |")
    print(f"\n2 cores shared with the server, medians of {options.repeat} interleaved rounds, flushing apart.")


if __name__ == "__main__":
    main()
