"""An Azure Blob Storage server for tests: azurite from npm, on a loopback port, in a child process."""

from __future__ import annotations

import base64
import hashlib
import hmac
import subprocess
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

from tests.servers.process import accepts, free_ports, spawn, stop, wait_until

VERSION = "3.37.0"
# Azurite's well-known account, the same in every installation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def install(folder: Path) -> Path:
    """Installs azurite into `folder` where it is not there yet; the path of its program."""
    program = folder / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), f"azurite@{VERSION}"]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
    return program


class Azurite:
    """Holds containers in memory until it is stopped."""

    def __init__(self, program: Path, base: Path) -> None:
        self.program, self.log = program, base / "azurite.log"
        (self.port,) = free_ports(1)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Where object_store's emulator mode finds it."""
        return {"AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{self.port}"}

    @property
    def options(self) -> dict[str, str]:
        """What a repository on this server needs to be told."""
        return {
            "azure_storage_use_emulator": "true",
            "azure_allow_http": "true",
            "azure_storage_account_name": ACCOUNT,
            "azure_storage_account_key": KEY,
        }

    def start(self) -> Azurite:
        """Starts it and waits until it accepts connections."""
        arguments = ["--inMemoryPersistence", "--skipApiVersionCheck", "--silent", "--blobHost", "127.0.0.1"]
        self._child = spawn([self.program, *arguments, "--blobPort", str(self.port)], self.log)
        wait_until(lambda: accepts(self.port), self._child, self.log, seconds=60)
        return self

    def create_container(self, name: str) -> None:
        """Creates a container with a request signed by hand: no Azure client is installed for it."""
        date, version = datetime.now(timezone.utc).strftime("%a, %d %b %Y %H:%M:%S GMT"), "2021-08-06"
        headers = f"x-ms-date:{date}\nx-ms-version:{version}\n"
        to_sign = f"PUT{12 * chr(10)}{headers}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        signature = hmac.new(base64.b64decode(KEY), to_sign.encode(), hashlib.sha256).digest()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{ACCOUNT}/{name}?restype=container",
            method="PUT",
            headers={
                "x-ms-date": date,
                "x-ms-version": version,
                "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}",
                "Content-Length": "0",
            },
        )
        urllib.request.urlopen(request, timeout=30).close()

    def stop(self) -> None:
        """Ends it."""
        if self._child is not None:
            stop(self._child, grace=1)
