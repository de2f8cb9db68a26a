"""A notebook that uses Milvault, executed: results and progress show as a person sees them there."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = [pytest.mark.embedded, pytest.mark.timeout(180)]

CELLS = {
    "collection": """
from pymilvus import MilvusClient
client = MilvusClient("demo.db")
client.create_collection("articles", dimension=4)
client.insert("articles", [{"id": i, "vector": [i, 1, 2, 3], "title": "<b>bold</b>"} for i in range(500)])
""",
    "backup": """
from milvault import *
manager = BackupManager.connect("demo.db", "milvus_backups")
backup = await manager.create_backup("articles", BackupParams(backup_name="<i>mine"))
backup
""",
    "bar": 'seen = await manager.create_backup("articles", progress=True)',
    "metadata": "backup.metadata",
    "list": "await manager.list_backups()",
    "verification": "await manager.verify_backup(backup.backup_id)",
    "restore": """
client.drop_collection("articles")
await manager.restore_backup(backup.backup_id, params=RestoreParams(load_after_restore=True))
""",
    "progress": """
stream = ProgressStream()
import asyncio
task = asyncio.create_task(manager.create_backup("articles", progress=stream))
last = [progress async for progress in stream][-1]
await task
last
""",
    "open client": 'client.query("articles", filter="id == 7", output_fields=["title"])[0]["title"]',
    "failure": """
failed = await manager.create_backup("articles", timeout=0.000001)
failed
""",
    "end": "await manager.close()",
}
"""Cells by what they show; each ends with an expression, as people write them."""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The executed cells' outputs, by the names above."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS.values()]
    executed = NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    return {name: cell["outputs"] for name, cell in zip(CELLS, executed.cells, strict=True)}


def html(outputs) -> str:
    """What the cell's last line shows."""
    (shown,) = [output for output in outputs if output["output_type"] == "execute_result"]
    return shown["data"]["text/html"]


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("backup", ["BackupResult", "articles", "500", "&lt;i&gt;mine", "size mb", "yes"]),
        ("metadata", ["BackupMetadata", "FULL_COLLECTION", "VERIFIED", "UTC", "compression ratio"]),
        ("list", ["2 backups", "<th>rows</th>", "500", "&lt;i&gt;mine"]),
        ("verification", ["VerificationResult", "CHECKSUM", "files verified"]),
        ("restore", ["RestoreResult", "rows restored", "500", "verification passed"]),
        ("progress", ["BackupProgress", "done", "100.00"]),
        ("failure", ["BackupResult", "no", "FAILED", "time allowed"]),
    ],
)
def test_a_result_is_a_table(notebook, cell, words):
    shown = html(notebook[cell])
    assert shown.startswith("<table>")
    for word in words:
        assert word in shown
    assert "<i>mine" not in shown


def test_a_result_has_a_text_of_one_line_beside_the_table(notebook):
    (shown,) = [output for output in notebook["backup"] if output["output_type"] == "execute_result"]
    text = shown["data"]["text/plain"]
    assert text.startswith("BackupResult(success=True, backup_id='b20")
    assert "\n" not in text


def test_the_bar_is_drawn_in_the_notebook(notebook):
    shown = str(notebook["bar"])
    assert "Backing up articles" in shown
    assert "500 rows" in shown
    assert "100%" in shown


def test_the_clients_that_were_open_go_on(notebook):
    (shown,) = notebook["open client"]
    assert "bold" in shown["data"]["text/plain"]


def test_no_cell_complains(notebook):
    complaints = [
        output["text"]
        for outputs in notebook.values()
        for output in outputs
        if output["output_type"] == "stream" and output["name"] == "stderr" and "milvault" in output["text"]
    ]
    assert complaints == []
