"""TLS in front of what speaks plain HTTP: terminated here, with certificates of an authority of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path

import trustme


class TlsFront:
    """Listens on a loopback port, and passes what it decrypts on to a port by protocol: `h2`, or `http/1.1`."""

    def __init__(self, ports: Mapping[str, int], folder: Path, *, name: str = "localhost", asks: bool = False) -> None:
        self._ports = ports
        authority = trustme.CA()
        self.ca_file, self.cert_file, self.key_file = (folder / f"{part}.pem" for part in ("ca", "cert", "key"))
        authority.cert_pem.write_to_path(self.ca_file)
        client = authority.issue_cert("client@localhost")
        client.cert_chain_pems[0].write_to_path(self.cert_file)
        client.private_key_pem.write_to_path(self.key_file)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self._context)
        self._context.set_alpn_protocols(list(ports))
        if asks:
            authority.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self.spoken: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._join, "127.0.0.1", 0, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.uri = f"https://localhost:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Ends it."""
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        protocol = writer.get_extra_info("ssl_object").selected_alpn_protocol() or "http/1.1"
        self.spoken.add(protocol)
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._ports[protocol])
        await asyncio.gather(self._pass(reader, behind_writer), self._pass(behind_reader, writer))

    @staticmethod
    async def _pass(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        with contextlib.suppress(OSError, RuntimeError):
            target.close()
