"""From a view to HTML: everything is escaped, and a part of a page can be written alone."""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from guardrails.ladder import MEANING
from pipelines.reporting.graph_page import FILTERS
from pipelines.reporting.page import dated

_COMMAND = re.compile(r"`([^`]+)`")
NAV = (
    ("/", "Overview"),
    ("/breakers", "Breakers"),
    ("/decisions", "Decisions"),
    ("/graph", "Graph"),
    ("/runs", "Runs"),
)
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
STATIC = {  # the only files that are served, by the name they are asked for; nothing a request says becomes a path
    "report.css": ("pipelines", "templates/report.css"),
    "dashboard.css": ("pipelines.serving", "static/dashboard.css"),
    "dashboard.js": ("pipelines.serving", "static/dashboard.js"),
    "htmx.min.js": ("pipelines.serving", "static/htmx.min.js"),
    "icon.svg": ("pipelines.serving", "static/icon.svg"),
}


class File(NamedTuple):
    content: bytes
    type: str
    stamp: str


@cache
def static_files() -> dict[str, File]:
    return {name: _file(package, path) for name, (package, path) in STATIC.items()}


def _file(package: str, path: str) -> File:
    content = resources.files(package).joinpath(path).read_bytes()
    kind = TYPES[path.rsplit(".", 1)[1]]
    return File(content, f"{kind}; charset=utf-8", hashlib.sha256(content).hexdigest()[:12])


def asset(name: str) -> str:
    """The address of a static file; it changes with the content, so that browsers may keep it."""
    return f"/static/{name}?{static_files()[name].stamp}"


def address(page: str, /, **values: str | int | None) -> str:
    """A page with its parameters; empty ones are left out.

    >>> address("/symbol", venue="x", symbol="A&B", text="")
    '/symbol?venue=x&symbol=A%26B'
    """
    said = {name: value for name, value in values.items() if value not in (None, "")}
    return f"{page}?{urlencode(said)}" if said else page


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipelines.serving"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= FILTERS | {"dated": dated, "told": told}
    environment.globals |= {"asset": asset, "address": address, "MEANING": MEANING}
    return environment


def told(text: str) -> Markup:
    """`text`, escaped, with commands in backticks as code and times kept on one line.

    >>> str(told("<b>: run `cascadeguard score`"))
    '&lt;b&gt;: run <code>cascadeguard score</code>'
    """
    return Markup(_COMMAND.sub(r"<code>\1</code>", str(dated(text))))  # noqa: S704  # escaped by `dated`


def write(template: str, view: Mapping[str, Any]) -> str:
    return _environment().get_template(f"{template}.html.j2").render(**view)


def stamp(text: str) -> str:
    """What tells one content of a part from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
