"""A real HTTP server on a free loopback port that speaks for a venue, and misbehaves when told to."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.pipelines.polling.venues import Binance, Okx


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of an answer."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hang_s: float = 0.0
    drip_s: float = 0.0  # the body, a byte in so many seconds
    cut: bool = False  # the connection is closed in the middle of the body


@dataclass
class Rest:
    """`faults`: called with path, query and how often the path was asked for before; None is the true answer."""

    url: str
    venue: Binance | Okx
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    faults: Callable[[str, dict[str, str], int], Fault | None] = lambda path, query, nth: None
    over: threading.Event = field(default_factory=threading.Event)

    def count(self, part: str) -> int:
        return sum(part in path for path, _ in self.asked)


class _Handler(BaseHTTPRequestHandler):
    rest: Rest
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        nth = self.rest.count(parts.path)
        self.rest.asked.append((parts.path, query))
        fault = self.rest.faults(parts.path, query, nth) or Fault()
        if fault.hang_s:
            self.rest.over.wait(fault.hang_s)
        body = fault.body
        if body is None:
            body = json.dumps(self.rest.venue.answer(parts.path, query)).encode()
        self._say(fault, body)

    def _say(self, fault: Fault, body: bytes) -> None:
        self.send_response(fault.status)
        for name, value in {"Content-Type": "application/json", **fault.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault.cut:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if fault.drip_s:
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.rest.over.wait(fault.drip_s):
                    break
            self.close_connection = True
            return
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing on standard error."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that went away is what some tests are about."""


@contextmanager
def serving(venue: Binance | Okx) -> Iterator[Rest]:
    """Serve `venue` until the block ends; hanging answers end with it."""
    server = _Server(("127.0.0.1", 0), _Handler)
    rest = Rest(f"http://127.0.0.1:{server.server_address[1]}", venue)
    server.RequestHandlerClass = type("Handler", (_Handler,), {"rest": rest})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield rest
    finally:
        rest.over.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)


def no_port() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
