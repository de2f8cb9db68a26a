"""A TCP relay that knows nothing of gRPC: it cuts connections in the middle of a message, or goes silent on them."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlparse


class Relay:
    """Listens on a loopback port and passes bytes on to `uri`'s host and port, until told otherwise."""

    def __init__(self, uri: str) -> None:
        parsed = urlparse(uri if "//" in uri else f"http://{uri}")
        self._target = (parsed.hostname or "127.0.0.1", parsed.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut_after: int | None = None
        self._silent: set[socket.socket] = set()
        self.cuts = 0
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def cut_after(self, answer_bytes: int) -> None:
        """Cuts every connection once that many more bytes have come back over all of them; once."""
        with self._lock:
            self._cut_after = answer_bytes

    def go_silent(self) -> None:
        """Passes nothing on any more over the connections that there are, and keeps them open. New ones work."""
        with self._lock:
            self._silent.update(end for pair in self._pairs for end in pair)

    def stop(self) -> None:
        """Ends it."""
        self._listener.close()
        self._close_all()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._pairs.append((client, server))
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                with self._lock:
                    if source in self._silent:
                        continue
                    cut = is_answer and self._cut_after is not None and len(data) > self._cut_after
                    if is_answer and self._cut_after is not None:
                        data = data[: self._cut_after] if cut else data
                        self._cut_after = None if cut else self._cut_after - len(data)
                target.sendall(data)
                if cut:
                    self.cuts += 1
                    self._close_all()
                    return
        if source not in self._silent:
            for end in (source, target):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _close_all(self) -> None:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for end in (end for pair in pairs for end in pair):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
