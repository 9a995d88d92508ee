"""The wire: every request of one exchange goes through here, to one host if the settings name one.

What ccxt does not keep is noted for the caller: the status, the venue's own words, when the answer was complete, how
long the venue asks to wait, and whether it was json at all (ccxt takes a proxy's page of html for an empty book).
"""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import requests

BYTES_MAX = 64 * 2**20  # the longest answer, all markets of a large venue, has some 15 MB
CHUNK = 2**16
WAIT_S_MAX = 7 * 86_400.0  # no venue bans an address for longer; more is a mistake in the header


class Wire(requests.Session):
    """A session that ccxt uses as its own. Reads no proxy, netrc or key from the environment."""

    def __init__(self, base_url: str, now: Callable[[], datetime]) -> None:
        super().__init__()
        self.trust_env = False
        self.max_redirects = 3
        self._base, self._now = base_url.rstrip("/"), now
        self.requests = 0
        self.forget()

    def forget(self) -> None:
        """Before a question: nothing has been heard yet."""
        self.status: int | None = None
        self.wait_s: float | None = None
        self.answered_at: datetime | None = None
        self.fault = self.said = ""

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """One request, its answer read whole. Raises what requests raises, and for an answer that is no json."""
        self.forget()
        self.requests += 1
        response = super().request(str(method), self._placed(str(url)), *args, **(kwargs | {"stream": True}))
        response._content = self._body(response)
        self.answered_at = self._now()
        self.status = response.status_code
        self.wait_s = waiting_s(response.headers.get("Retry-After"), self.answered_at)
        self._hear(response.content, response.ok)
        return response

    def _placed(self, url: str) -> str:
        if not self._base:
            return url
        parts = urlsplit(url)
        return self._base + urlunsplit(("", "", parts.path, parts.query, ""))

    def _body(self, response: requests.Response) -> bytes:
        parts, size = [], 0
        for part in response.iter_content(CHUNK):
            parts.append(part)
            size += len(part)
            if size > BYTES_MAX:
                response.close()
                self._refuse(f"answer is longer than {BYTES_MAX // 2**20} MB")
        return b"".join(parts)

    def _hear(self, body: bytes, ok: bool) -> None:
        """Note what the venue says in words; refuse a good answer that is no json."""
        try:
            told = json.loads(body)
        except (ValueError, RecursionError):
            if ok:
                start = body.lstrip()[:1]
                kind = "cut json" if start in (b"{", b"[") else "html" if start == b"<" else "something else"
                self._refuse(f"answer is no JSON but {kind} (is a proxy in between?)")
            return
        words = [told.get(name) for name in ("msg", "retMsg", "message")] if isinstance(told, dict) else []
        self.said = next((" ".join(str(word).split())[:160] for word in words if word), "")

    def _refuse(self, fault: str) -> None:
        self.fault = fault
        raise requests.exceptions.InvalidJSONError(fault)


def waiting_s(header: str | None, now: datetime) -> float | None:
    """Seconds that a `Retry-After` header asks to wait, given as seconds or as a date; None without one.

    >>> waiting_s("7", datetime(2026, 1, 1, tzinfo=UTC)), waiting_s("soon", datetime(2026, 1, 1, tzinfo=UTC))
    (7.0, None)
    >>> waiting_s("Thu, 01 Jan 2026 00:01:00 GMT", datetime(2026, 1, 1, tzinfo=UTC))
    60.0
    """
    if header is None:
        return None
    try:
        wait_s = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        wait_s = ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - now).total_seconds()
    return None if math.isnan(wait_s) else min(max(wait_s, 0.0), WAIT_S_MAX)
