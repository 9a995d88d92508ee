"""Small tables made by hand, minute by minute, and the servers that alerts are sent to."""

import json
import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.config import AlertsConfig, Config, SinkConfig
from pipelines.lake import SCHEMAS, Lake
from pipelines.times import Interval
from tests.pipelines.alerting.letters import START, at

VENUE = "testex"
STEPS = {"normal": 0, "cautious": 1, "reduce_only": 2, "halted": 3}


def span(start: float, end: float) -> Interval:
    return Interval(at(start), at(end))


def table(name: str, rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=SCHEMAS[name])


def decision(  # noqa: PLR0917  # a row has as many facts as it has
    minute: float, symbol: str, before: str | None, after: str, action: str, rule: str = "price_band", **more: Any
) -> dict[str, Any]:
    """A decision in the guard's own words."""
    made = {
        "decision_id": f"{symbol}-{rule}-{minute:g}", "venue": VENUE, "scope": "venue" if symbol == "*" else "symbol",
        "entity": symbol, "ts": at(minute), "rule": rule, "state_before": before, "state_after": after,
        "action": action, "limit_after": {"normal": None, "cautious": 2.0}.get(action, 0.0),
        "limit_unit": "x of new positions", "observed": 0.072, "threshold": 0.05, "unit": "share",
        "reason": "price moved -7.2 % against its 5-min mean; band is 5.0 %; new positions are paused; "
        "clears after 10 min within 2.5 %",
        "clears_when": "clears after 10 min within 2.5 %, then 5 min of probation", "reset_authority": "timer",
        "expires_at": at(minute + 15), "data_health": "ok", "policy_version": 3, "policy_sha256": "ab" * 32,
    }  # fmt: skip
    return made | more


def state(minute: float, *held: tuple[str, str, str]) -> list[dict[str, Any]]:
    """The guard's state: `(symbol, rule, state)` of breakers that are held, and one that is closed."""
    rows = [*held, ("ZZZ", "outage", "closed")]
    return [
        {"venue": VENUE, "symbol": symbol, "rule": rule, "ts": at(minute), "state": word,
         "severity": 2 * (word == "open"), "first_ts": START}
        for symbol, rule, word in rows
    ]  # fmt: skip


def limit(minute: float, symbol: str, **more: Any) -> dict[str, Any]:
    made = {"venue": VENUE, "symbol": symbol, "ts": at(minute), "action": "normal", "expires_at": at(minute + 15),
            "leverage_cap_effective": 10.0}  # fmt: skip
    return made | more


def score(minute: float, symbol: str, alert: bool = False, **more: Any) -> dict[str, Any]:
    made = {
        "venue": VENUE, "symbol": symbol, "ts": at(minute), "available_at": at(minute), "status": "detector",
        "anomaly": 3.0 if alert else 1.0, "anomaly_threshold": 2.0, "alert": alert,
        "lead_family": "crowding" if alert else None,
        "reasons": "crowding 4.4 (basis_bps_5 = -31.2), thin_book 2.1" if alert else None,
    }  # fmt: skip
    return made | more


@dataclass
class Market:
    """A lake that is filled interval by interval."""

    root: Path
    lake: Lake = field(init=False)

    def __post_init__(self) -> None:
        self.lake = Lake(self.root)

    def guarded(
        self, start: float, end: float, decisions: Sequence[dict[str, Any]] = (),
        held: Sequence[tuple[str, str, str]] = (), *,
        limits: Sequence[dict[str, Any]] | None = None, scores: Sequence[dict[str, Any]] | None = None,
    ) -> Interval:  # fmt: skip
        """Write what score and guard would leave of an interval."""
        told = span(start, end)
        rows = {
            "decisions": decisions,
            "guard_state": state(end, *held),
            "limits": [limit(end, "AAA"), limit(end, "BBB")] if limits is None else limits,
            "scores": [score(end, "AAA")] if scores is None else scores,
        }
        with self.lake.writer():
            for name, made in rows.items():
                self.lake.replace(name, table(name, made), VENUE, told.start, told.end)
        return told


def settings(root: Path, *sinks: SinkConfig, **more: Any) -> Config:
    return Config(lake=root, alerts=AlertsConfig(sinks=sinks, **more))


# --- servers


class Hook:
    """A webhook: `answers` are taken one after the other, the last for ever: a status, or seconds to hang."""

    def __init__(self, *answers: int | float) -> None:
        self.answers = list(answers) or [200]
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.port}/hook"

    @property
    def titles(self) -> list[str]:
        return [one["title"] for one in self.got]

    def answer(self) -> int | float:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def hook(*answers: int | float) -> Iterator[Hook]:
    told = Hook(*answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = told.answer()
            if isinstance(answer, float):
                time.sleep(answer)
            told.paths.append(self.path)
            told.headers.append(dict(self.headers))
            told.got.append(json.loads(body) if self.headers["Content-Type"] == "application/json" else {"raw": body})
            status = 200 if isinstance(answer, float) else answer
            try:
                self.send_response(status)
                self.end_headers()
            except OSError:
                return  # whoever asked has gone

        do_PUT = do_POST  # noqa: N815  # the server's own names

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    told.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def mail() -> Iterator[tuple[int, list[str]]]:
    """A mail server that takes everything: its port, and the messages as they came."""
    letters: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                word = line[:4].upper()
                if word == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    letters.append(b"".join(lines).decode())
                    self.wfile.write(b"250 taken\r\n")
                elif word == b"QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    self.wfile.write(b"250 here\r\n")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1], letters
        finally:
            server.shutdown()
            thread.join()
