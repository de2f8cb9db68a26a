"""A third S3 server for tests and benchmarks: versitygw (Go), made for production, which keeps objects as files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.servers.process import accepts, free_ports, spawn, stop, wait_until
from tests.servers.s3 import options_of

VERSION = "v1.8.0"
KEY, SECRET = "testing", "testing-secret"


def install(folder: Path) -> Path:
    """Builds versitygw into `folder` where it is not there yet (some minutes, with Go); the path of its program."""
    program = folder / "bin" / "versitygw"
    if not program.exists():
        command = ["go", "install", f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"]
        environment = {**os.environ, "GOBIN": str(program.parent.absolute())}
        subprocess.run(command, check=True, capture_output=True, timeout=1800, env=environment)
    return program


class VersityGateway:
    """Holds buckets in a folder, on a file system with extended attributes."""

    def __init__(self, program: Path, base: Path) -> None:
        self.program, self.log, self.folder = program, base / "versitygw.log", base / "versitygw"
        (self.port,) = free_ports(1)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, str]:
        """What a repository on this server needs to be told."""
        return options_of(self.port, KEY, SECRET)

    def start(self, bucket: str) -> VersityGateway:
        """Starts it with one bucket and waits until it accepts connections."""
        (self.folder / bucket).mkdir(parents=True)
        self._child = spawn(
            [self.program, "--port", f"127.0.0.1:{self.port}", "--quiet", "posix", self.folder],
            self.log,
            env={"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET},
        )
        wait_until(lambda: accepts(self.port), self._child, self.log, seconds=60)
        return self

    def stop(self) -> None:
        """Ends it."""
        if self._child is not None:
            stop(self._child, grace=1)
