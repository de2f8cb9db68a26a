"""Milvus Lite served over TCP by its own command line, in a child process that tests may kill."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.servers.process import accepts, free_ports, spawn, stop, wait_until


class MilvusLiteServer:
    """One Lite server on a loopback port: `start`, `kill`, `start` again on the same data, `stop`."""

    kind = "lite-tcp"

    def __init__(self, base: Path) -> None:
        self.base = base.resolve()
        self.log = self.base / "lite.log"
        (self.port,) = free_ports(1)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Where it serves gRPC."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self.base / "data"

    def start(self, *, seconds: float = 60) -> MilvusLiteServer:
        """Starts it and waits until it accepts connections."""
        self.base.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "milvus_lite", "server", "--data-dir", self.data]
        self._child = spawn([*command, "--host", "127.0.0.1", "--port", str(self.port)], self.log)
        wait_until(lambda: accepts(self.port), self._child, self.log, seconds=seconds)
        return self

    def kill(self) -> None:
        """SIGKILL to the server's own process."""
        if self._child is not None:
            stop(self._child, grace=0)

    def stop(self) -> None:
        """Ends it."""
        if self._child is not None:
            stop(self._child, grace=5)
