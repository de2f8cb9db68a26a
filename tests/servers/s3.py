"""An S3 server for tests: moto's, on a loopback port, in a child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3

from tests.servers.process import accepts, free_ports, spawn, stop, wait_until

KEY, SECRET, REGION = "testing", "testing-secret", "us-east-1"


def options_of(port: int, key: str, secret: str) -> dict[str, str]:
    """What a repository on an S3 server at a loopback port needs to be told."""
    return {
        "aws_endpoint": f"http://127.0.0.1:{port}",
        "aws_access_key_id": key,
        "aws_secret_access_key": secret,
        "aws_region": REGION,
        "aws_allow_http": "true",
    }


class S3Server:
    """Holds buckets in memory until it is stopped."""

    def __init__(self, base: Path) -> None:
        self.log = base / "moto.log"
        (self.port,) = free_ports(1)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it serves HTTP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def options(self) -> dict[str, str]:
        """What a repository on this server needs to be told."""
        return options_of(self.port, KEY, SECRET)

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables."""
        return {name.upper(): value for name, value in self.options.items()}

    def requests(self, bucket: str) -> list[str]:
        """What was asked of a bucket so far: the lines of the server's log, which end in the answers' status."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if f" /{bucket}" in line]

    def client(self) -> Any:
        """A boto3 client, to look at the store by other means than ours."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
        )

    def start(self) -> S3Server:
        """Starts it and waits until it accepts connections."""
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._child = spawn(command, self.log)
        wait_until(lambda: accepts(self.port), self._child, self.log, seconds=60)
        return self

    def stop(self) -> None:
        """Ends it."""
        if self._child is not None:
            stop(self._child, grace=1)
