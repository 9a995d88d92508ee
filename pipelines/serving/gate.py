"""What every request passes: sizes, host name, method, token; and what every answer carries: headers, no trace."""

import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple, TypeAlias

import structlog

from pipelines.serving.access import Access

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "cascadeguard"
LOGIN = "/login"
OPEN = (LOGIN, "/static/")  # what is seen without a token: the form, style and scripts
PATH_MAX, QUERY_MAX, BODY_MAX = 256, 2048, 2048
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Refusal(NamedTuple):
    status: int
    said: str
    headers: dict[str, str]


def header(scope: Scope, name: str) -> str:
    """A request header, "" where it is absent; of one that comes twice, nothing: who knows which counts."""
    found = [value for key, value in scope["headers"] if key == name.encode()]
    return found[0].decode("latin-1") if len(found) == 1 else ""


def cookie_of(scope: Scope) -> str:
    try:
        morsel = SimpleCookie(header(scope, "cookie")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


class Gate:
    """The application behind its gate. Nothing here waits for the lake."""

    def __init__(self, app: App, access: Access, now_s: Callable[[], float]) -> None:
        self._app, self._access, self._now_s = app, access, now_s
        self._log = structlog.get_logger("serve")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, bare=scope["method"] == "HEAD")
        began_s = time.perf_counter()
        refused = self._refusal(scope)
        try:
            if refused is not None:
                await answer.refuse(refused)
            else:
                await self._app(scope, receive, answer.send)
        except Exception:  # whatever it is, the answer tells nothing of it
            self._log.error("failed", path=self._shown(scope), trace=self._masked(traceback.format_exc()))
            await answer.refuse(Refusal(500, "something went wrong; the server's log says what", {}))
        self._log.info("asked", method=scope["method"], path=self._shown(scope), status=answer.status,
                       ms=round(1000 * (time.perf_counter() - began_s)))  # fmt: skip

    def _shown(self, scope: Scope) -> str:
        """The path as the log may hold it: without the query, cut off, and without the token, wherever it was put."""
        return self._masked(str(scope["path"])[:PATH_MAX])

    def _masked(self, text: str) -> str:
        return text.replace(self._access.token, "***") if self._access.token else text

    def _refusal(self, scope: Scope) -> Refusal | None:
        path, method = scope["path"], scope["method"]
        if len(scope.get("raw_path") or path) > PATH_MAX or len(scope["query_string"]) > QUERY_MAX:
            return Refusal(414, "the address is too long", {})
        if not self._access.knows_host(header(scope, "host")):
            return Refusal(400, "this host name is not served here; add it to `names` of [serve]", {})
        if method not in {"GET", "HEAD"} and not (method == "POST" and path == LOGIN):
            return Refusal(405, "this page is only read", {"allow": "GET, HEAD"})
        return None if self._admits(scope) else self._to_login(scope)

    def _admits(self, scope: Scope) -> bool:
        if self._access.token is None or scope["path"] == LOGIN or scope["path"].startswith(OPEN[1]):
            return True
        bears = self._access.bears(header(scope, "authorization"))
        return bears or self._access.in_session(cookie_of(scope), int(self._now_s()))

    @staticmethod
    def _to_login(scope: Scope) -> Refusal:
        """People are led to the form, an open page too; programs are told that they need the token."""
        if header(scope, "hx-request"):
            return Refusal(401, "the session has ended", {"hx-redirect": LOGIN})
        if "text/html" in header(scope, "accept"):
            return Refusal(303, "a token is needed", {"location": LOGIN})
        return Refusal(401, "a token is needed", {"www-authenticate": "Bearer"})


class _Answer:
    """An answer on its way out: with the headers of `HEADERS`, without a body where none was asked for."""

    def __init__(self, send: Send, *, bare: bool) -> None:
        self._send, self._bare = send, bare
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            ours = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *ours]}
        elif self._bare:
            message = {**message, "body": b""}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        if self.status:  # the answer has begun: it can only be broken off
            return
        body = refusal.said.encode()
        headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **refusal.headers}
        named = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": named})
        await self.send({"type": "http.response.body", "body": body})
