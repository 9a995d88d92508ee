"""Structured logs: for people on a terminal, a JSON object a line where none looks on; secrets never in either.

What is bound (of an attempt `venue`, `interval`, `token`) stands on every line until it is unbound. Logs of libraries
go the same way and through the same mask.
"""

import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal, TextIO, cast

import structlog

from pipelines.observing.secrets import hidden

PUBLIC = frozenset({"token", "level", "timestamp"})  # the fencing token is a number that everybody may see


class StandardError(io.TextIOBase):
    """Standard error as it is when something is written: whoever redirects it for a while gets what is said then."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


class Mask:
    """A processor that takes secrets out of whatever is logged: words, values, what is nested, tracebacks."""

    def __init__(self, secrets: frozenset[str] = frozenset()) -> None:
        self.secrets = secrets

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {
            name: value if name in PUBLIC and _plain(value) else self._masked(value) for name, value in event.items()
        }

    def text(self, text: str) -> str:
        return hidden(text, self.secrets)

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self._masked(name): self._masked(held) for name, held in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._masked(held) for held in value]
        return value if value is None or isinstance(value, (bool, int, float)) else self.text(str(value))


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, (int, float)) or (isinstance(value, str) and "://" not in value)


def configure_logs(
    form: Literal["auto", "json", "text"] = "auto",
    secrets: frozenset[str] = frozenset(),
    stream: TextIO | None = None,
) -> None:
    """Logs go to `stream` (default standard error); `auto` is JSON unless that is a terminal."""
    out = cast(TextIO, StandardError()) if stream is None else stream
    as_json = form == "json" or (form == "auto" and not out.isatty())
    mask = Mask(secrets)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = [structlog.processors.format_exc_info, mask, _renderer(as_json, out)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=out),
    )
    _capture_libraries(shared, last, out)


def _renderer(as_json: bool, out: TextIO) -> Any:
    if as_json:
        return structlog.processors.JSONRenderer(sort_keys=True, default=str)
    return structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)


class Libraries(logging.StreamHandler[TextIO]):
    """What libraries say through `logging`; a later configuration takes the place of an earlier one."""


def _capture_libraries(shared: list[Any], last: list[Any], out: TextIO) -> None:
    """From warnings on, in the same form and through the same mask; handlers of others stay."""
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = Libraries(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[strip, *last]))
    others = [one for one in logging.root.handlers if not isinstance(one, Libraries)]
    logging.root.handlers[:] = [*others, handler]
    logging.root.setLevel(logging.WARNING)


def mask_in_use() -> Mask:
    """The mask of the present configuration, one without own secrets where there is none."""
    used = structlog.get_config()["processors"]
    return next((one for one in used if isinstance(one, Mask)), Mask())


def traceback_text(error: BaseException) -> str:
    """A traceback as people may see it."""
    return mask_in_use().text("".join(traceback.format_exception(error)))


@contextmanager
def bound(**values: Any) -> Iterator[None]:
    """Every line that is logged inside carries these values."""
    with structlog.contextvars.bound_contextvars(**values):
        yield


def environment_secrets(config: Any, environment: Mapping[str, str] | None = None) -> frozenset[str]:
    """The values of all environment variables that the settings name as secret."""
    from pipelines.observing.secrets import values_of

    return values_of(config, os.environ if environment is None else environment)
