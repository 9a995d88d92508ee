"""The form that takes the token and gives a cookie for it."""

from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse

from pipelines.serving.access import SESSION_S
from pipelines.serving.desk import Desk
from pipelines.serving.gate import BODY_MAX, COOKIE, LOGIN
from pipelines.serving.pages import write


def add_login(app: FastAPI, desk: Desk) -> None:
    @app.api_route(LOGIN, methods=["GET", "HEAD"])
    def show_login() -> Response:
        if desk.access.token is None:
            return RedirectResponse("/", 303)
        return HTMLResponse(write("login", {"wrong": False}))

    @app.post(LOGIN)
    async def log_in(request: Request) -> Response:
        if not _from_here(request):
            return PlainTextResponse("the form must be sent from its own page", 403)
        if not desk.access.is_token(_said(await _body(request))):
            return HTMLResponse(write("login", {"wrong": True}), 403)
        answer = RedirectResponse("/", 303)
        session = desk.access.session(int(desk.now().timestamp()))
        secure = request.url.scheme == "https"
        answer.set_cookie(COOKIE, session, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
        return answer


def _from_here(request: Request) -> bool:
    """Whether the page that sent the form is ours; browsers say where a form comes from."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


async def _body(request: Request) -> bytes:
    """The form as it was sent, of at most BODY_MAX bytes; what is longer is no token."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > BODY_MAX:
            return b""
    return body


def _said(body: bytes) -> str:
    """The token in a form; "" where there is none."""
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=4).get("token", [""])[0].strip()
    except ValueError:
        return ""
