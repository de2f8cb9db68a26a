"""Child processes that never outlive the test run: free ports, a death signal, an orderly stop."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Run in the child before the program itself: PR_SET_PDEATHSIG (1) has the kernel kill it when its parent dies. Not by
# `preexec_fn`, which would fork this process for real, and gRPC's threads with it.
_DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def free_ports(count: int) -> list[int]:
    """`count` loopback ports that nothing listens on, below the range that outgoing connections are given.

    Each worker of a test run picks its own: servers bind their ports a while after they were picked, and three workers
    that start theirs together would now and then pick the same.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    own = range(20_000 + 3_000 * worker, 23_000 + 3_000 * worker)
    picked: dict[int, socket.socket] = {}
    for port in random.SystemRandom().sample(own, len(own)):
        if len(picked) == count:
            break
        probe = socket.socket()
        try:
            probe.bind(("127.0.0.1", port))
            picked[port] = probe
        except OSError:
            probe.close()
    for probe in picked.values():
        probe.close()
    if len(picked) < count:
        raise RuntimeError(f"found only {len(picked)} of {count} free ports in {own}")
    return list(picked)


def spawn(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a child whose output goes to `log`; on Linux the kernel kills it when this process dies."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *map(str, command)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait_until(ready: Callable[[], bool], child: subprocess.Popen[bytes], log: Path, *, seconds: float) -> None:
    """Waits for `ready`; a child that dies ends the wait at once, with the end of its log in the error."""
    deadline = time.monotonic() + seconds
    while not ready():
        if child.poll() is not None:
            raise ChildDiedError(f"the child ended with {child.returncode} before it was ready:\n{tail(log)}")
        if time.monotonic() > deadline:
            stop(child, grace=0)
            raise TimeoutError(f"not ready after {seconds:.0f} s:\n{tail(log)}")
        time.sleep(0.05)


class ChildDiedError(RuntimeError):
    """A child process ended before it served."""


def tail(log: Path, characters: int = 3000) -> str:
    """The end of a log file."""
    return log.read_text(errors="replace")[-characters:] if log.exists() else "(no log)"


def accepts(port: int) -> bool:
    """Whether something listens on the loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def stop(child: subprocess.Popen[bytes], *, grace: float = 5.0) -> None:
    """Asks the child to end, and kills it by its own pid if it has not after `grace` seconds."""
    if child.poll() is not None:
        return
    if grace > 0:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(grace)
            return
    child.kill()
    child.wait()
