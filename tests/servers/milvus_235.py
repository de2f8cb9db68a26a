"""A real Milvus 2.3.5 (PyPI `milvus==2.3.5`) as a child process, beside others if need be.

The package's own launcher is used for the configuration alone. It binds etcd to 2379 and 2380 whatever it is told,
waits 180 seconds for a child that has died, and unpacks 250 MB for each server: here every server has its own ports,
the process is watched, and the programs are unpacked once into the environment.
"""

from __future__ import annotations

import fcntl
import importlib
import subprocess
import sys
import urllib.request
import warnings
from collections.abc import Mapping
from pathlib import Path

from tests.servers.process import ChildDiedError, free_ports, spawn, stop, tail, wait_until

_PORTS = (
    "proxy_port",
    "proxy_internal_port",
    "root_coord_port",
    "query_coord_port",
    "query_node_port",
    "index_coord_port",
    "index_node_port",
    "data_coord_port",
    "data_node_port",
)

QUICK = {
    # Less waiting between the steps of loading and flushing, and no reports; what the server answers stays the same.
    "queryCoord.checkInterval": "100",
    "queryCoord.distPullInterval": "100",
    "queryCoord.checkHandoffInterval": "500",
    "queryCoord.checkSegmentInterval": "100",
    "queryCoord.checkChannelInterval": "100",
    "queryCoord.checkIndexInterval": "1000",
    "queryCoord.UpdateNextTargetInterval": "1",
    "dataCoord.segment.assignmentExpiration": "300",
    "queryNode.stats.publishInterval": "5000",
    "proxy.timeTickInterval": "50",
    "rootCoord.dmlChannelNum": "4",
    "common.gracefulTime": "500",
    "common.session.ttl": "10",
    "log.level": "warn",
    "log.stdout": "false",
}
"""Settings for tests. Measurements run on the server's own defaults."""


def _milvus_package() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("milvus")


def programs() -> Path:
    """The unpacked server, shared by all servers of this environment."""
    package = _milvus_package()
    base = Path(sys.prefix) / "share" / "milvus-2.3.5"
    base.mkdir(parents=True, exist_ok=True)
    with (base / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / ".unpacked").exists():
            package._initialize_data_files(str(base))  # type: ignore[attr-defined]
            (base / ".unpacked").touch()
    return base / "bin"


class Milvus235:
    """One server: `start`, `kill` (SIGKILL, for tests), `start` again on the same data, `stop`."""

    kind = "server"

    def __init__(self, base: Path, settings: Mapping[str, str] | None = None) -> None:
        self.base = base.resolve()
        self.settings = dict(QUICK if settings is None else settings)
        self.log = self.base / "logs" / "milvus-output.log"
        ports = free_ports(len(_PORTS) + 3)
        self.port, self.web_port = ports[0], ports[-1]
        self._child: subprocess.Popen[bytes] | None = None
        self._write_configuration(dict(zip(_PORTS, ports, strict=False)), etcd=(ports[-3], ports[-2]))

    @property
    def uri(self) -> str:
        """Where it serves gRPC."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """Where it keeps its files."""
        return self.base / "data"

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._child is not None, "the server is not running"
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._child is not None and self._child.poll() is None

    def start(self, *, seconds: float = 120) -> Milvus235:
        """Starts it and waits until it answers. A restart on the same data can panic once ("node not match")."""
        try:
            self._start_once(seconds)
        except ChildDiedError:
            if "node not match" not in tail(self.log, 20_000):
                raise
            self._start_once(seconds)
        return self

    def kill(self) -> None:
        """What a power cut does: SIGKILL to the server's own process."""
        if self._child is not None:
            stop(self._child, grace=0)

    def stop(self) -> None:
        """Ends it; it may ignore SIGTERM for long, and nothing of a test's server is worth the wait."""
        if self._child is not None:
            stop(self._child, grace=1)

    def _start_once(self, seconds: float) -> None:
        binaries = programs()
        self.log.unlink(missing_ok=True)
        self._child = spawn(
            [binaries / "milvus", "run", "standalone"],
            self.log,
            cwd=self.base,
            env={
                "DEPLOY_MODE": "STANDALONE",
                "METRICS_PORT": str(self.web_port),
                "MILVUS_RUN_DIR": str(self.base / "run"),
                "LD_LIBRARY_PATH": str(binaries),
            },
        )
        wait_until(self._healthy, self._child, self.log, seconds=seconds)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.web_port}/healthz", timeout=2) as answer:
                return b"OK" in answer.read()
        except OSError:
            return False

    def _write_configuration(self, ports: Mapping[str, int], etcd: tuple[int, int]) -> None:
        package = _milvus_package()
        client, peer = (f"http://127.0.0.1:{port}" for port in etcd)
        self.base.mkdir(parents=True, exist_ok=True)
        etcd_file = self.base / "etcd.yaml"
        etcd_file.write_text(
            f"name: default\ndata-dir: {self.data}/etcd.data\n"
            f"listen-client-urls: {client}\nadvertise-client-urls: {client}\n"
            f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: default={peer}\n"
            f"log-level: error\nlog-outputs: [{self.base}/logs/etcd.log]\n"
        )
        config = package.MilvusServerConfig(  # type: ignore[attr-defined]
            data_dir=str(self.base), etcd_port=etcd[0], **ports
        )
        config.template_text = config.template_text.replace(
            "  use:\n    embed: true", f"  config:\n    path: {etcd_file}\n  use:\n    embed: true"
        )
        for key, value in self.settings.items():
            section, _, rest = key.partition(".")
            if "." in rest or f"\n  {rest}:" in config.template_text:
                config.set(key, value)
            else:  # the template leaves it out
                heading = f"\n{section}:\n"
                config.template_text = config.template_text.replace(heading, f"{heading}  {rest}: {value}\n", 1)
        config.resolve()
