"""What the documentation prints runs as printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recipes import create, plain, read_all

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"


def python_blocks(markdown: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", markdown.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run(script: Path, folder: Path, *arguments: str, uri: str = "") -> str:
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", "MILVAULT_URI": uri}
    command = [sys.executable, "-W", "ignore", str(script), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_first_example_of_the_readme_runs_as_printed(tmp_path):
    blocks = python_blocks(REPOSITORY / "README.md")
    assert blocks, "README.md has no Python example"
    script = tmp_path / "readme.py"
    script.write_text(blocks[0])
    assert run(script, tmp_path).strip(), "it printed nothing"


def test_the_quick_start_runs_without_a_server(tmp_path):
    assert "the same neighbours at the same distances" in run(EXAMPLES / "quick_start.py", tmp_path)


def test_the_schedule_makes_a_backup_at_once(lite_tcp, name, tmp_path):
    create(lite_tcp.client, name, plain(30))
    assert "30 rows" in run(EXAMPLES / "schedule.py", tmp_path, name, "--now", uri=lite_tcp.uri)


def test_a_migration_that_goes_wrong_loses_nothing(lite_tcp, name, tmp_path):
    create(lite_tcp.client, name, plain(30))
    before = read_all(lite_tcp.client, name)
    assert "30 rows are back" in run(EXAMPLES / "before_migration.py", tmp_path, name, uri=lite_tcp.uri)
    assert read_all(lite_tcp.client, name) == before


def test_every_example_is_run_here():
    run_here = set(re.findall(r"EXAMPLES / \"(\w+\.py)\"", Path(__file__).read_text(encoding="utf-8")))
    assert {example.name for example in EXAMPLES.glob("*.py")} == run_here


@pytest.mark.parametrize(
    "page", sorted(REPOSITORY.glob("*.md")) + sorted((REPOSITORY / "docs").rglob("*.md")), ids=lambda path: path.name
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
