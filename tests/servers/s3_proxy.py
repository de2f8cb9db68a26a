"""An HTTP proxy before an S3 server, which misbehaves as a test says: by seed and count of requests, never by clock."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_OWN_IN_EVERY_RUN = re.compile(r"b\d{8}T\d{6}Z_[0-9a-f]{6}|uploadId=[^&]*|\.[0-9a-f]{8}\.json")


@dataclass(frozen=True)
class Request:
    """What a client asks for: the method, the key (`bucket/…`), the query; and how often the same was asked before."""

    method: str
    key: str
    query: dict[str, list[str]]
    times: int

    @property
    def lists(self) -> bool:
        """Whether it asks for a list of objects."""
        return "list-type" in self.query

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.method in ("PUT", "POST", "DELETE")


@dataclass(frozen=True)
class Fault:
    """What becomes of a request.

    Attributes:
        kind: `status` answers with `status` and `code`; `reset` cuts the connection; `truncate` cuts it in the middle
            of the answer's body; `short` gives half of the body as if it were all; `stall` falls silent there,
            and `mute` before it has said anything.
        after: Whether the server has carried the request out before.
    """

    kind: str
    status: int = 503
    code: str = "SlowDown"
    after: bool = False


Plan = Callable[[Request], Fault | None]


@dataclass
class Lists:
    """How lists lie, by a part of a key.

    Attributes:
        hidden: Objects that are there and missing from lists.
        ghosts: Objects that were deleted and are listed all the same.
        empty_page: Whether each list begins with a page that has nothing and says that more follows.
    """

    hidden: set[str] = field(default_factory=set)
    ghosts: bool = False
    empty_page: bool = False


def some_of(seed: int, share: float, *faults: Fault, only: Callable[[Request], bool] = lambda _: True) -> Plan:
    """Fails about `share` of the requests that `only` takes, each with one of `faults`."""

    def plan(request: Request) -> Fault | None:
        if not only(request):
            return None
        what = _OWN_IN_EVERY_RUN.sub(
            "", f"{seed} {request.method} {request.key} {sorted(request.query)} {request.times}"
        )
        number = int.from_bytes(sha256(what.encode()).digest()[:8], "big")
        return faults[number // 1000 % len(faults)] if number % 1000 < share * 1000 else None

    return plan


PASSING = (
    Fault("status", 503, "SlowDown"),
    Fault("status", 500, "InternalError"),
    Fault("status", 500, "InternalError", after=True),
    Fault("reset"),
    Fault("reset", after=True),
)
"""What a store that is busy or restarting does; with `after`, the request was carried out and nobody is told."""


class FaultyS3:
    """Stands before the server at `endpoint`; `plan` and `lists` may be changed at any time.

    Attributes:
        plan: What becomes of each request; `None` passes everything on.
        lists: How lists lie.
        faults: How often each kind of fault was done.
        requests: Everything that was asked for.
    """

    def __init__(self, endpoint: str) -> None:
        self.plan: Plan | None = None
        self.lists = Lists()
        self.faults: Counter[str] = Counter()
        self.requests: list[Request] = []
        self._asked: Counter[str] = Counter()
        self._deleted: dict[str, str] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        target = urlsplit(endpoint)
        proxy = self

        class Handler(_Handler):
            owner = proxy
            address = (target.hostname or "127.0.0.1", target.port or 80)

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """Where it serves HTTP."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Ends it."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def note(self, method: str, path: str) -> Request:
        """Counts a request."""
        parts = urlsplit(path)
        query = parse_qs(parts.query, keep_blank_values=True)
        name = f"{method} {_OWN_IN_EVERY_RUN.sub('', path)}"
        with self._lock:
            request = Request(method, unquote(parts.path).lstrip("/"), query, self._asked[name])
            self._asked[name] += 1
            self.requests.append(request)
        return request

    def decide(self, request: Request) -> Fault | None:
        """What becomes of it."""
        fault = self.plan(request) if self.plan is not None else None
        if fault is not None:
            with self._lock:
                self.faults[fault.kind] += 1
        return fault

    def stall(self) -> None:
        """Waits until the proxy is closed."""
        self._closing.wait(60)

    def listed(self, body: bytes, request: Request) -> bytes:
        """A list as it is told."""
        text = body.decode()
        for entry in re.findall(r"<Contents>.*?</Contents>", text, re.DOTALL):
            key = entry.partition("<Key>")[2].partition("</Key>")[0]
            with self._lock:
                self._deleted[key] = entry
            if any(part in key for part in self.lists.hidden):
                text = text.replace(entry, "")
                self.faults["hidden"] += 1
        for folder in re.findall(r"<CommonPrefixes>.*?</CommonPrefixes>", text, re.DOTALL):
            if any(part in folder for part in self.lists.hidden):
                text = text.replace(folder, "")
                self.faults["hidden"] += 1
        prefix = request.query.get("prefix", [""])[0]
        if self.lists.ghosts and "delimiter" not in request.query:
            with self._lock:
                gone = [entry for key, entry in self._deleted.items() if key.startswith(prefix) and entry not in text]
            self.faults["ghosts"] += len(gone)
            text = text.replace("</ListBucketResult>", "".join(gone) + "</ListBucketResult>")
        return text.encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultyS3
    address: tuple[str, int]

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        request = self.owner.note(self.command, self.path)
        if self.owner.lists.empty_page and request.lists and "continuation-token" not in request.query:
            return self._answer(200, {"Content-Type": "application/xml"}, _EMPTY_PAGE)
        fault = self.owner.decide(request)
        if fault is not None and not fault.after and fault.kind in ("status", "reset"):
            return self._fail(fault)
        if fault is not None and fault.kind == "mute":
            self.owner.stall()
            return self._cut()
        status, headers, answer = self._onward(body)
        if fault is not None and fault.kind in ("status", "reset"):
            return self._fail(fault)
        if request.lists and status == 200:
            answer = self.owner.listed(answer, request)
            headers.pop("Content-Length", None)
        if fault is None or self.command == "HEAD" or len(answer) < 2:
            return self._answer(status, headers, answer)
        half = len(answer) // 2
        if fault.kind == "short":
            headers.pop("Content-Length", None)
            return self._answer(status, headers, answer[:half])
        self._answer(status, {**headers, "Content-Length": str(len(answer))}, answer[:half])
        if fault.kind == "stall":
            self.owner.stall()
        return self._cut()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def _onward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        path = self.path
        if self.owner.lists.empty_page:
            path = re.sub(r"&?continuation-token=nothing-yet", "", path)
        connection = http.client.HTTPConnection(*self.address, timeout=60)
        with contextlib.closing(connection):
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, path, body=body or None, headers=headers)
            answer = connection.getresponse()
            kept = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in ("connection", "transfer-encoding", "server", "date", "content-length")
            }
            length = answer.getheader("Content-Length")
            content = answer.read()
            if self.command == "HEAD" and length is not None:
                kept["Content-Length"] = length
            return answer.status, kept, content

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def _fail(self, fault: Fault) -> None:
        if fault.kind == "reset":
            self._cut()
            return
        said = f"<Error><Code>{fault.code}</Code><Message>the test says so</Message></Error>"
        self._answer(fault.status, {"Content-Type": "application/xml"}, said.encode())

    def _cut(self) -> None:
        """Ends the connection as a process that dies does: by a reset."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RD)
        with contextlib.suppress(OSError):
            self.connection.close()


_EMPTY_PAGE = (
    b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><IsTruncated>true</IsTruncated><KeyCount>0</KeyCount>'
    b"<NextContinuationToken>nothing-yet</NextContinuationToken></ListBucketResult>"
)
