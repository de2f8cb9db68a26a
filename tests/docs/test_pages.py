"""The Python examples of the pages in docs/ run as printed, each page in one go, as in a notebook."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_examples import REPOSITORY, python_blocks

pytestmark = pytest.mark.embedded

DOCS = REPOSITORY / "docs"
QUICK_START = DOCS / "quick-start.md"
NATIVE = DOCS / "native.md"  # needs a Milvus server: tests/native runs it
PAGES = sorted(page for page in DOCS.glob("*.md") if page not in (QUICK_START, NATIVE) and python_blocks(page))


async def run(page: Path, block: str, names: dict[str, Any]) -> None:
    """Runs a block in which `await` may stand outside of a function."""
    code = compile(block, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waiting = eval(code, names)
    if inspect.isawaitable(waiting):
        await waiting


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the pages' relative paths lead; the Milvus Lite that they start there ends with the test."""
    from milvus_lite.server_manager import server_manager_instance

    for name in ("MILVAULT_URI", "MILVAULT_ROOT", "MILVAULT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    server_manager_instance.release_server(str(tmp_path / "demo.db"))


async def test_the_quick_start_runs_from_top_to_bottom(folder, capsys):
    names: dict[str, Any] = {}
    for block in python_blocks(QUICK_START):
        await run(QUICK_START, block, names)
    assert names["restored"].rows_restored == 1000
    assert names["restored"].verification_passed is True
    assert "data/_default-00000.parquet" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
async def test_a_page_goes_on_from_the_quick_start(page, folder):
    names: dict[str, Any] = {}
    first, second = python_blocks(QUICK_START)[:2]
    for block in (first, second.partition("backup =")[0], *python_blocks(page)):
        await run(page, block, names)
    for result in ("backup", "restored"):
        if result in names:
            assert names[result].success, names[result].error_message
    await names["manager"].close()
    names["client"].close()
