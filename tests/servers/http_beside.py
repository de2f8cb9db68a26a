"""HTTP at a server's own address, as newer Milvus has it, and a management port: JSON by hand, gRPC passed on.

What a test stands in for here is what newer servers tell over HTTP alone, and none of them can be run.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

Reply = tuple[int, Any]
"""A status, and what the answer's body says."""


class Json:
    """An HTTP server on a loopback port: `answer` gets method, path, query and body of each request."""

    def __init__(self, answer: Callable[[str, str, dict[str, str], Any], Reply]) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(None)

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                self._reply(json.loads(self.rfile.read(length)))

            def _reply(self, body: Any) -> None:
                url = urlparse(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                outer.requests.append((url.path, query, body))
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                status, said = answer(self.command, url.path, query, body)
                content = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class Beside:
    """One port for two: what begins as HTTP/2 goes to `grpc_port`, everything else to `http_port`."""

    def __init__(self, grpc_port: int, http_port: int) -> None:
        self._ports = (grpc_port, http_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        start = client.recv(3, socket.MSG_PEEK)
        server = socket.create_connection(("127.0.0.1", self._ports[0 if start == b"PRI" else 1]))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._pass, args=(server, client), daemon=True).start()
        self._pass(client, server)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            source.close()
            target.close()
