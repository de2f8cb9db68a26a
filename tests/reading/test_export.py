"""`milvault export`: a backup's rows as one file, whole or not there."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from milvault import BackupCorruptedError, BackupManager, BackupStorageError, InvalidArgumentError
from tests.backup_files import data_files, leftovers
from tests.recipes import create, plain
from tests.server.test_other_types import everything

pytestmark = pytest.mark.embedded


@pytest.fixture
async def backup(lite, connect, name):
    create(lite.client, name, everything())
    async with connect(lite) as manager:
        made = await manager.create_backup(name)
        made.raise_for_error()
    return made


async def test_each_format_holds_the_rows(backup, root, tmp_path):
    async with BackupManager.connect(None, root) as manager:
        with await manager.open_backup(backup.backup_id) as reader:
            table = pa.table(reader)
        for suffix, read in [("parquet", pq.read_table), ("arrow", pa.feather.read_table)]:
            path = tmp_path / f"rows.{suffix}"
            result = await manager.export_backup(backup.backup_id, path)
            assert (result.row_count, result.size_bytes) == (90, path.stat().st_size)
            assert read(path).cast(table.schema).equals(table)
        await manager.export_backup(backup.backup_id, tmp_path / "rows.jsonl")
        await manager.export_backup(backup.backup_id, tmp_path / "rows.csv")
    rows = table.to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert pa.array([line["vector"]], table.schema.field("vector").type).to_pylist() == [row["vector"]]
        assert line["$meta"] == json.loads(row["$meta"])
        assert (line["words"], line["maybe_text"]) == (row["words"], row["maybe_text"])
        pairs = zip(row["sparse"]["indices"], row["sparse"]["values"], strict=True)
        assert line["sparse"] == {str(index): value for index, value in pairs}
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["varchar"] for cell in cells] == [row["varchar"] for row in rows]
    assert [cell["maybe_number"] for cell in cells] == [str(row["maybe_number"] or "") for row in rows]
    assert [json.loads(cell["json"]) for cell in cells] == [json.loads(row["json"]) for row in rows]


async def test_a_file_that_is_there_stays_and_a_failure_leaves_none(backup, root, tmp_path):
    path = tmp_path / "out" / "rows.csv"
    path.parent.mkdir()
    path.write_text("mine")
    async with BackupManager.connect(None, root) as manager:
        with pytest.raises(InvalidArgumentError, match="there already"):
            await manager.export_backup(backup.backup_id, path)
        assert path.read_text() == "mine"
        await manager.export_backup(backup.backup_id, path, overwrite=True, columns=["id"], where="id == 3")
        assert path.read_text() == "id\n3\n"
        with pytest.raises(InvalidArgumentError, match="format"):
            await manager.export_backup(backup.backup_id, path.with_suffix(".xlsx"))
        with pytest.raises(BackupStorageError, match="nowhere"):
            await manager.export_backup(backup.backup_id, tmp_path / "nowhere" / "rows.csv")
        (file,) = data_files(backup.storage_path)
        file.write_bytes(file.read_bytes()[:-100] + bytes(100))
        with pytest.raises(BackupCorruptedError):
            await manager.export_backup(backup.backup_id, path, overwrite=True)
    assert path.read_text() == "id\n3\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["rows.csv"]
    assert leftovers(root) == []


async def test_a_canceled_export_leaves_no_file(lite, connect, name, root, tmp_path):
    create(lite.client, name, plain(6000, dim=64))
    async with connect(lite) as manager:
        made = await manager.create_backup(name)
        folder = tmp_path / "out"
        folder.mkdir()
        seen = asyncio.Event()
        task = asyncio.create_task(
            manager.export_backup(made.backup_id, folder / "rows.jsonl", progress=lambda progress: seen.set())
        )
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    for _ in range(100):
        if not list(folder.iterdir()):
            break
        await asyncio.sleep(0.05)
    assert list(folder.iterdir()) == []


async def test_the_command_line_exports(backup, root, tmp_path):
    def milvault(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "milvault", "--root", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    path = str(tmp_path / "rows.jsonl")
    chosen = ["--columns", "id,bool", "--where", "id < -40", "--partition", "_default"]
    done = milvault("export", backup.backup_id, path, *chosen, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["row_count"] == 5
    first = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").split("\n")[0]
    assert json.loads(first) == {"id": -45, "bool": True}
    again = milvault("export", backup.backup_id, path)
    assert (again.returncode, "there already" in again.stderr) == (2, True)
    wrong = milvault("export", backup.backup_id, path, "--overwrite", "--where", "nope == ")
    assert (wrong.returncode, "character" in wrong.stderr) == (2, True)
    assert milvault("export", "nothing", path, "--overwrite").returncode == 10
