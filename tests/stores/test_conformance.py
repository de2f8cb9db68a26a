"""Every kind of store keeps every rule that a repository rests on, and the table in the docs says so.

The rules are Rust (`src/repository/conformance.rs`); here are the stores. Those that are slow to install run in
`make soak`, which also writes the table anew with MILVAULT_WRITE_TABLES=1.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SOAK
from tests.servers import azurite, s3s_fs, versitygw

pytestmark = pytest.mark.s3

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "storage.md"
TOOLS = PROJECT / "target" / "test-tools"
RULES = re.findall(r'^    \(\s*"([^"]+)",', (PROJECT / "src/repository/conformance.rs").read_text(), flags=re.MULTILINE)
BEGIN, END = "<!-- stores: begin -->\n", "<!-- stores: end -->\n"
QUICK = ["local disk", "memory", "S3 (moto)"]
ALL = [*QUICK, "S3 (versitygw)", "S3 (s3s-fs)", "Azure (azurite)"]
# It looks whether there is an object, and then writes: of several that create one at once, several succeed. It knows no
# replacement on a condition.
BROKEN_BY_S3S_FS = ("a file is created only where", "a file is replaced only while", "a second backup")


def kept_rules(stores: dict[str, dict], environment: dict[str, str] | None = None) -> dict[str, list[str]]:
    """The rules that each store kept, by what the suite printed. Local disk and memory always take part."""
    command = ["cargo", "test", "--quiet", "--lib", "repository::conformance", "--", "--nocapture"]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env={**os.environ, **(environment or {}), "MILVAULT_TEST_STORES": json.dumps(stores)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    kept: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        store, rule, is_kept = [*line.split("\t"), "", ""][:3]
        if rule in RULES:
            kept.setdefault(store, []).extend([rule] if is_kept == "true" else [])
    assert done.returncode == 0, f"{kept}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return kept


def table(kept: dict[str, list[str]]) -> str:
    stores = [store for store in ALL if store in kept]
    lines = ["| rule | " + " | ".join(stores) + " |", "|---|" + ":-:|" * len(stores)]
    for rule in RULES:
        marks = ("yes" if rule in kept[store] else "no" for store in stores)
        lines.append(f"| {rule} | " + " | ".join(marks) + " |")
    return "\n".join(lines) + "\n"


def printed() -> str:
    return PAGE.read_text().split(BEGIN)[1].split(END)[0]


def column(text: str, store: str) -> list[str]:
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in text.splitlines()]
    return [row[rows[0].index(store)] for row in rows[2:]]


@pytest.mark.timeout(900)
def test_local_disk_memory_and_s3_keep_every_rule(s3_server, bucket):
    kept = kept_rules({"S3 (moto)": {"root": f"s3://{bucket}", "options": s3_server.options}})
    assert len(RULES) == 10
    assert kept == dict.fromkeys(QUICK, RULES)
    for store in QUICK:
        assert column(printed(), store) == column(table(kept), store), f"{PAGE.name} tells otherwise of {store}"


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="builds s3s-fs and versitygw, installs azurite: make soak")
@pytest.mark.timeout(3600)
def test_every_other_store_keeps_every_rule(s3_server, bucket, tmp_path):
    second = s3s_fs.S3sFs(s3s_fs.install(TOOLS / "s3s-fs"), tmp_path).start("test")
    third = versitygw.VersityGateway(versitygw.install(TOOLS / "versitygw"), tmp_path).start("test")
    azure = azurite.Azurite(azurite.install(TOOLS / "azurite"), tmp_path).start()
    try:
        azure.create_container("test")
        stores = {
            "S3 (moto)": {"root": f"s3://{bucket}", "options": s3_server.options},
            "S3 (versitygw)": {"root": "s3://test", "options": third.options},
            "S3 (s3s-fs)": {"root": "s3://test", "options": second.options},
            "Azure (azurite)": {"root": "az://test", "options": azure.options},
        }
        kept = kept_rules(stores, azure.environment)
    finally:
        second.stop()
        third.stop()
        azure.stop()
    broken = [rule for rule in RULES if rule not in kept["S3 (s3s-fs)"]]
    assert all(rule.startswith(BROKEN_BY_S3S_FS) for rule in broken), broken
    assert {store: rules for store, rules in kept.items() if store != "S3 (s3s-fs)"} == dict.fromkeys(
        [store for store in ALL if store != "S3 (s3s-fs)"], RULES
    )
    if os.environ.get("MILVAULT_WRITE_TABLES") == "1":
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(before + BEGIN + table(kept) + END + rest.split(END)[1])
    assert printed() == table(kept), f"{PAGE.name} tells otherwise: MILVAULT_WRITE_TABLES=1 writes it anew"
