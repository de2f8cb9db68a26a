"""Starting `tests.faults.child`, in this mount namespace or in one with a small or read-only disk of its own."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]


def command(job: dict[str, Any], module: str = "tests.faults.child") -> list[str]:
    """The child's command line."""
    return [sys.executable, "-W", "ignore", "-m", module, json.dumps(job)]


def run_child(job: dict[str, Any], *, seconds: float = 120) -> tuple[int, dict[str, Any]]:
    """Its exit code (-9: killed) and the last thing that it said."""
    done = subprocess.run(command(job), capture_output=True, text=True, timeout=seconds, cwd=REPOSITORY)
    lines = done.stdout.splitlines()
    assert lines, f"the child said nothing (exit {done.returncode}): {done.stderr[-2000:]}"
    return done.returncode, json.loads(lines[-1])


def run_on_a_disk_of(size_mib: int, folder: Path, job: dict[str, Any], *, read_only: bool = False) -> dict[str, Any]:
    """Runs `tests.faults.on_small_disk` with a tmpfs of that size at `folder`, in a mount namespace of its own.

    Skips where this system allows neither root nor unprivileged users to mount.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_mib}m" + (",ro" if read_only else "")
    child = shlex.join(command(job, "tests.faults.on_small_disk"))
    script = f"mount -t tmpfs -o {options} tmpfs {shlex.quote(str(folder))} && exec {child}"
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system allows no mount namespaces, and so no disk small enough to fill")
    done = subprocess.run([*unshare, "sh", "-c", script], capture_output=True, text=True, timeout=120, cwd=REPOSITORY)
    assert done.stdout, f"exit {done.returncode}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])
