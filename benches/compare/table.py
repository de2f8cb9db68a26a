"""The Markdown table of a report: medians, spread, and ratios to the raw RPC and to pymilvus."""

from __future__ import annotations

import statistics
from typing import Any

NAMES = {"server": "Milvus 2.3.5 over TCP", "lite": "Milvus Lite over TCP"}
BASELINES = {
    "export": ("export raw", "export iterator"),
    "restore": ("restore raw", "restore pymilvus"),
    # Beside a local disk; the last column says how much faster the upload of finished files is.
    "stores": ("store local", "store upload"),
}


def markdown(report: dict[str, Any]) -> str:
    """The whole report as Markdown."""
    parts = [_server(kind, content, report["options"]["dim"]) for kind, content in report["servers"].items()]
    machine, options = report["machine"], report["options"]
    parts.append(
        f"{machine['cores']} cores shared with the server, medians of {options['repeat']} interleaved rounds"
        f" (pymilvus: {options['slow_repeat']}), {machine['time']}. Time is median (lowest – highest)."
        " Ratio to raw: smaller is better. Faster than pymilvus: larger is better. Peak: the client's VmHWM, median."
    )
    return "\n\n".join(parts)


def _server(kind: str, content: dict[str, Any], dim: int) -> str:
    series, rows = content["series"], content["rows"]
    lines = [
        f"### {NAMES[kind]}, {rows:,} × {dim} float32",
        "",
        "| what | time, s | rows/s | ÷ raw | × faster than pymilvus | peak, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in series.values():
        if one["part"] == "memory":
            continue
        raw, slow = (_median(series, key, "seconds") for key in BASELINES[one["part"]])
        seconds = sorted(run["seconds"] for run in one["runs"])
        middle = statistics.median(seconds)
        lines.append(
            f"| {one['part']}: {one['what']} | {middle:.2f} ({seconds[0]:.2f} – {seconds[-1]:.2f}) "
            f"| {one['rows'] / middle:,.0f} | {_ratio(middle, raw)} | {_ratio(slow, middle)} "
            f"| {statistics.median(run['peak_mib'] for run in one['runs']):.0f} |"
        )
    lines += _memory(series)
    return "\n".join(lines)


def _memory(series: dict[str, Any]) -> list[str]:
    pairs = [
        ("create_backup", "export small", "export milvault"),
        ("restore_backup", "restore small", "restore milvault DIGEST"),
    ]
    lines = []
    for what, small_key, large_key in pairs:
        small, large = (_median(series, key, "peak_mib") for key in (small_key, large_key))
        if small and large:
            few, many = series[small_key]["rows"], series[large_key]["rows"]
            lines.append(f"| {what} | {small:.0f} at {few:,} | {large:.0f} at {many:,} | {large / small:.2f} |")
    if not lines:
        return []
    return ["", "| peak memory, MiB | few rows | many rows | ratio |", "|---|---:|---:|---:|", *lines]


def _median(series: dict[str, Any], key: str, value: str) -> float | None:
    return statistics.median(run[value] for run in series[key]["runs"]) if key in series else None


def _ratio(a: float | None, b: float | None) -> str:
    return "–" if a is None or b is None else f"{a / b:.2f}"
