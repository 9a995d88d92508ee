"""The dashboard as a real server on a free loopback port, its clock in the hands of the test."""

import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.config import Config, ServeConfig
from pipelines.serving.server import address_of, bound, server_of

UP_WAIT_S = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str


@dataclass
class Served:
    """A running dashboard. `now` is what its clock says; tests move it."""

    url: str
    port: int
    now: datetime

    def ask(self, path: str, method: str = "GET", body: str | None = None, **headers: str) -> Answer:
        """One request as it stands: no redirect is followed, no header is added but Host. `_` in a name is `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=named)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
        finally:
            connection.close()

    def shown(self, path: str) -> str:
        """The page at `path`, which must be there."""
        answer = self.ask(path)
        assert answer.status == 200, (answer.status, answer.text[:500])
        return answer.text


@contextmanager
def served(lake: Path, now: datetime, *, token: str | None = None, **settings: Any) -> Iterator[Served]:
    """The dashboard of `lake`; it is gone afterwards."""
    config = Config(lake=lake, serve=ServeConfig(port=0, **settings))
    listening = bound("127.0.0.1", 0)
    address = address_of(listening)
    running = Served(address.removesuffix("/"), int(listening.getsockname()[1]), now)
    server = server_of(config, token, lambda: running.now)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + UP_WAIT_S
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield running
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()
