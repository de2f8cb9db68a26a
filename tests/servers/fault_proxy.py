"""A gRPC proxy in front of a Milvus: passes every call on as bytes, counts them, and fails those that a test names."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tests.servers.process import free_ports

SERVICE = "milvus.proto.milvus.MilvusService"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]


class Proxy(grpc.GenericRpcHandler):
    """Stands between a client and the server at `target` (`http://host:port`); `start` and `stop` it.

    Attributes:
        calls: How often each method was called, failures that were asked for included.
        most_at_once: The most calls of each method that were on their way at the same time; queries for rows count as
            `rows` too.
        delays: Seconds that each call of a method, or query for `rows`, is held back.
    """

    def __init__(self, target: str) -> None:
        (self.port,) = free_ports(1)
        self.calls: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()
        self.delays: dict[str, float] = {}
        self._now: Counter[str] = Counter()
        self._failures: dict[str, tuple[grpc.StatusCode, int]] = {}
        self._lock = threading.Lock()
        self._channel = grpc.insecure_channel(target.removeprefix("http://"), options=_UNLIMITED)
        self._server = grpc.server(ThreadPoolExecutor(32), handlers=[self], options=_UNLIMITED)

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def fail(self, method: str, code: grpc.StatusCode, times: int) -> None:
        """The next `times` calls of `method` fail with `code`."""
        self._failures[method] = (code, times)

    def start(self) -> Proxy:
        """Listens."""
        assert self._server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self._server.start()
        return self

    def stop(self) -> None:
        """Ends it, and calls that are on their way."""
        self._server.stop(0).wait()
        self._channel.close()

    def service(self, details: Any) -> grpc.RpcMethodHandler:
        """Takes every method there is."""
        path = details.method
        method = path.rpartition("/")[2]
        onward = self._channel.unary_unary(path)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._pass(method, onward, request, context)
        )

    def _pass(self, method: str, onward: Any, request: bytes, context: grpc.ServicerContext) -> bytes:
        names = [method, "rows"] if method == "Query" and b"count(*)" not in request else [method]
        with self._lock:
            for each in names:
                self.calls[each] += 1
                self._now[each] += 1
                self.most_at_once[each] = max(self.most_at_once[each], self._now[each])
            code, times = self._failures.get(method, (None, 0))
            if times:
                self._failures[method] = (code, times - 1)
        try:
            time.sleep(max(self.delays.get(each, 0.0) for each in names))
            if times:
                context.abort(code, "the test says so")
            metadata = [(name, value) for name, value in context.invocation_metadata() if name != "user-agent"]
            try:
                return onward(request, metadata=metadata, timeout=120)
            except grpc.RpcError as error:
                context.abort(error.code(), error.details())
        finally:
            with self._lock:
                for each in names:
                    self._now[each] -= 1
