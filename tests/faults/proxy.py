"""A gRPC proxy between Milvault and a real Milvus: calls go through as they are, but for the faults that a test adds.

It knows nothing of Milvus: calls are a method and bytes. It runs in threads of its own, so that tests may await.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc

Act = Callable[["Call"], bytes]
"""What happens to a call instead of passing it on: gives the answer's bytes, or ends the call by `Call.fail`."""

_ENDLESS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
# A server that comes back is found at once, not after a pause that doubles up to two minutes.
_EAGER = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 300)]


@dataclass
class Call:
    """One call on its way."""

    method: str
    request: bytes
    context: grpc.ServicerContext
    _ask: Callable[..., bytes]

    def forward(self) -> bytes:
        """The server's own answer; its failures are passed on."""
        metadata = [
            (key, value)
            for key, value in self.context.invocation_metadata()
            if not key.startswith((":", "grpc-")) and key != "user-agent"
        ]
        try:
            return self._ask(self.request, metadata=metadata)
        except grpc.RpcError as failed:
            return self.fail(failed.code(), failed.details() or "")

    def fail(self, code: grpc.StatusCode, why: str) -> bytes:
        """Ends the call with a failure."""
        self.context.abort(code, why)
        raise AssertionError("abort returned")


@dataclass
class Fault:
    """What befalls calls of `method`: those that `when` picks, `skip` of them let through, then `times` (None: all)."""

    method: str
    act: Act
    when: Callable[[bytes], bool] = lambda _: True
    skip: int = 0
    times: int | None = 1
    struck: int = 0
    seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def takes(self, method: str, request: bytes) -> bool:
        """Whether it befalls this call; counts it if so."""
        if method != self.method or not self.when(request):
            return False
        with self._lock:
            self.seen += 1
            if self.seen <= self.skip or (self.times is not None and self.struck >= self.times):
                return False
            self.struck += 1
            return True


def refuse(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, why: str = "refused by the test") -> Act:
    """The call fails before the server hears of it."""
    return lambda call: call.fail(code, why)


def lose_the_answer(code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Act:
    """The server does what was asked, and the answer never arrives."""

    def act(call: Call) -> bytes:
        call.forward()
        return call.fail(code, "the answer was lost by the test")

    return act


def answer(message: Any) -> Act:
    """This protobuf message comes back, and the server hears of nothing."""
    return lambda _: message.SerializeToString()


def hold(seconds: float, *, then: Act | None = None, asked: bool = False) -> Act:
    """The call waits, or ends earlier where the client gives up; `asked` lets the server do its part first."""

    def act(call: Call) -> bytes:
        reply = call.forward() if asked else None
        gone = threading.Event()
        call.context.add_callback(gone.set)
        gone.wait(seconds)
        if reply is not None:
            return reply
        return then(call) if then else call.forward()

    return act


def change(edit: Callable[[bytes], bytes]) -> Act:
    """The server's answer comes back changed."""
    return lambda call: edit(call.forward())


def first(do: Callable[[], object]) -> Act:
    """Something happens, and then the call goes through."""

    def act(call: Call) -> bytes:
        do()
        return call.forward()

    return act


class Proxy:
    """Listens on a loopback port of its own and passes calls on to `address` (host:port or a URL)."""

    def __init__(self, address: str, faults: Sequence[Fault] = ()) -> None:
        self.faults = list(faults)
        self.calls: list[str] = []
        self._channel = grpc.insecure_channel(address.removeprefix("http://"), options=[*_ENDLESS, *_EAGER])
        self._server = grpc.server(ThreadPoolExecutor(32), options=_ENDLESS)
        self._server.add_generic_rpc_handlers((_Handler(self._handle),))
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    @property
    def uri(self) -> str:
        """Where it serves gRPC."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, method: str, act: Act, **how: Any) -> Fault:
        """Puts a fault in, and gives it back so that the test can see whether it struck."""
        fault = Fault(method, act, **how)
        self.faults.append(fault)
        return fault

    def _handle(self, path: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        method = path.rsplit("/", 1)[-1]
        self.calls.append(method)
        call = Call(method, request, context, self._channel.unary_unary(path))
        for fault in self.faults:
            if fault.takes(method, request):
                return fault.act(call)
        return call.forward()

    def stop(self) -> None:
        """Ends it, and every call with it."""
        self._server.stop(grace=0).wait(5)
        self._channel.close()


class _Handler(grpc.GenericRpcHandler):
    def __init__(self, handle: Callable[[str, bytes, grpc.ServicerContext], bytes]) -> None:
        self._handle = handle

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        path = details.method
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._handle(path, request, context))


@contextlib.contextmanager
def proxy_to(address: str) -> Iterator[Proxy]:
    """A proxy for the length of a test."""
    proxy = Proxy(address)
    try:
        yield proxy
    finally:
        proxy.stop()
