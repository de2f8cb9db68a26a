"""A user's program is type-checked against the package as it is: what is right passes, what is wrong is found."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PROGRAM = REPOSITORY / "tests" / "typing" / "program.py"


def check(*files, folder):
    """mypy as a user has it: strict, and without this repository's settings and plugins."""
    settings = folder / "mypy.ini"
    settings.write_text("[mypy]\nstrict = True\n")
    command = [sys.executable, "-m", "mypy", "--config-file", settings, "--cache-dir", folder / "cache", *files]
    environment = {**os.environ, "MYPYPATH": str(REPOSITORY / "python")}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, cwd=folder)


def test_a_users_program_passes_and_its_mistakes_are_found(tmp_path):
    # Without the ignores, each marked line is an error, and no other.
    lines = PROGRAM.read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "# type: ignore" in line}
    assert len(marked) > 5
    bare = tmp_path / "bare.py"
    bare.write_text("\n".join(line.partition("  # type: ignore")[0] for line in lines) + "\n")
    done = check(bare, folder=tmp_path)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert {int(line.split(":")[1]) for line in errors} == marked, done.stdout + done.stderr
