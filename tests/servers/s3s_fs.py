"""A second S3 server for tests: s3s-fs, a crate, which keeps objects as files."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.servers.process import accepts, free_ports, spawn, stop, wait_until
from tests.servers.s3 import options_of

VERSION = "0.14.1"
KEY, SECRET = "testing", "testing-secret"


def install(folder: Path) -> Path:
    """Builds s3s-fs into `folder` where it is not there yet (some minutes); the path of its program."""
    program = folder / "bin" / "s3s-fs"
    if not program.exists():
        command = ["cargo", "install", "--quiet", "s3s-fs", "--version", VERSION, "--locked", "--features", "binary"]
        subprocess.run([*command, "--root", str(folder)], check=True, capture_output=True, timeout=1800)
    return program


class S3sFs:
    """Holds buckets in a folder."""

    def __init__(self, program: Path, base: Path) -> None:
        self.program, self.log, self.folder = program, base / "s3s-fs.log", base / "s3s-fs"
        (self.port,) = free_ports(1)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, str]:
        """What a repository on this server needs to be told."""
        return options_of(self.port, KEY, SECRET)

    def start(self, bucket: str) -> S3sFs:
        """Starts it with one bucket and waits until it accepts connections."""
        (self.folder / bucket).mkdir(parents=True)
        keys = ["--access-key", KEY, "--secret-key", SECRET]
        self._child = spawn(
            [self.program, *keys, "--host", "127.0.0.1", "--port", str(self.port), self.folder], self.log
        )
        wait_until(lambda: accepts(self.port), self._child, self.log, seconds=60)
        return self

    def stop(self) -> None:
        """Ends it."""
        if self._child is not None:
            stop(self._child, grace=1)
