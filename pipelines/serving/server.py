"""The server: bound to one address, until it is stopped."""

import socket
from collections.abc import Callable
from datetime import datetime

import uvicorn

from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.serving.access import access_of
from pipelines.serving.app import application
from pipelines.serving.desk import Desk
from pipelines.serving.reading import Reader


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`. InputError where that cannot be had."""
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        raise InputError(
            f"cannot listen ({error.strerror})", where=f"{host}:{port}", mend="choose another with --host or --port"
        ) from None


def address_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def server_of(config: Config, token: str | None, now: Callable[[], datetime]) -> uvicorn.Server:
    """The server of `config.lake`. Raises InputError where it may not be started without a token."""
    access = access_of(config.serve.host, config.serve.names, token)
    app = application(Desk(Reader(config.lake), config, access, now))
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, limit_concurrency=200, timeout_keep_alive=30,
        h11_max_incomplete_event_size=16_384, lifespan="off", ws="none", timeout_graceful_shutdown=3,
    )  # fmt: skip
    return uvicorn.Server(settings)
