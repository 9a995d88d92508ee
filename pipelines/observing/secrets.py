"""What must never be seen in a log, a message or a health file, and how it is taken out of a text."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

MASK = "***"
LENGTH_MIN = 4  # shorter values are words like "on": masking them would only tear texts apart
_USER_INFO = re.compile(r"(?<=://)[^\s/?#@'\"]+@")
_SENSITIVE = r"[\w-]*(?:token|secret|passw(?:or)?d|passwd|api_?-?key|signature|access_?key)[\w-]*"
_PARAMETER = re.compile(
    rf"(?i)({_SENSITIVE}=['\"]?|['\"]{_SENSITIVE}['\"]\s*:\s*['\"]?|authorization['\"]?\s*:\s*['\"]?)"
    r"(?:(?:bearer|basic)\s+)?[^\s&,;'\"]+"
)
_PATH = re.compile(r"(?<=://)([^\s/?#'\"]+)(/(?:services|bot|hooks|webhooks?)[^\s?#'\"]*)", re.IGNORECASE)


def names_of(config: BaseModel) -> frozenset[str]:
    """The environment variables that settings name as holding a secret: every `*_env`, and those of `secret_envs`.

    >>> from pipelines.config import Config, SinkConfig, AlertsConfig
    >>> names_of(AlertsConfig(sinks=(SinkConfig(name="desk", url_env="DESK_URL"),)))
    frozenset({'DESK_URL'})
    """
    return frozenset(_walk(config))


def _walk(value: Any) -> Iterable[str]:
    if isinstance(value, tuple):
        for item in value:
            yield from _walk(item)
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            held = getattr(value, name)
            if name.endswith("_env") and held:
                yield held
            elif name.endswith("_envs"):
                yield from held
            else:
                yield from _walk(held)


def values_of(config: BaseModel, environment: Mapping[str, str]) -> frozenset[str]:
    """The secrets themselves, and the parts of an address that are secret by themselves."""
    values = {environment.get(name, "").strip() for name in names_of(config)}
    return frozenset(part for value in values for part in (value, *_parts(value)) if len(part) >= LENGTH_MIN)


def _parts(value: str) -> list[str]:
    """User, password and long pieces of the path of an address: an error text may quote one of them alone."""
    _, separator, rest = value.partition("://")
    if not separator:
        return []
    user, at, place = rest.rpartition("@")
    pieces = [piece for piece in re.split(r"[/?&=]", place)[1:] if len(piece) >= 2 * LENGTH_MIN]
    return [*pieces, *(user.split(":") if at else [])]


def hidden(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without these secrets, without user and password of addresses, without the values of tokens.

    >>> hidden("push to https://desk:hunter2@host/x?token=abc&n=1 failed for s3cret", ["s3cret"])
    'push to https://***@host/x?token=***&n=1 failed for ***'
    >>> hidden("https://hooks.example/services/T0/B0/xyz said 404, Authorization: Bearer abc.def")
    'https://hooks.example/*** said 404, Authorization: ***'
    """
    for secret in sorted(secrets, key=len, reverse=True):  # the whole before its parts
        text = text.replace(secret, MASK)
    text = _PATH.sub(rf"\1/{MASK}", _USER_INFO.sub(f"{MASK}@", text))
    return _PARAMETER.sub(rf"\1{MASK}", text)
