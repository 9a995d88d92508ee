"""Who may ask: host names that are ours, and the token where more than this machine can ask."""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipelines.errors import InputError

TOKEN_VARIABLE = "CASCADEGUARD_SERVE_TOKEN"  # noqa: S105  # the name of the variable, not what it holds
TOKEN_LENGTH_MIN = 24
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
SESSION_S = 12 * 3600


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name is none, but `localhost`: it may resolve to anything.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "risk.example")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(header: str) -> str:
    """The name in a Host header, without its port, in lower case.

    >>> [host_of(header) for header in ("Localhost:8010", "[::1]:8010", "risk.example.", "")]
    ['localhost', '::1', 'risk.example', '']
    """
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


@dataclass(frozen=True)
class Access:
    """What a request must show. `names` None: any host name (the token is demanded then)."""

    token: str | None = field(repr=False)
    names: frozenset[str] | None
    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)  # sessions end with the process

    def knows_host(self, header: str) -> bool:
        return self.names is None or host_of(header) in self.names

    def is_token(self, said: str) -> bool:
        """Whether `said` is the token; takes as long whatever it is."""
        return self.token is not None and hmac.compare_digest(said.encode(), self.token.encode())

    def bears(self, authorization: str) -> bool:
        scheme, _, said = authorization.partition(" ")
        return scheme.lower() == "bearer" and self.is_token(said.strip())

    def session(self, now_s: int) -> str:
        """What the cookie holds: when it ends, and a digest of that under a key that never leaves the process."""
        ends = str(now_s + SESSION_S)
        return f"{ends}.{self._digest(ends)}"

    def in_session(self, cookie: str, now_s: int) -> bool:
        ends, _, digest = cookie.partition(".")
        ours = hmac.compare_digest(digest.encode(), self._digest(ends).encode())
        return ours and ends.isascii() and ends.isdigit() and now_s < int(ends)

    def _digest(self, ends: str) -> str:
        return hmac.new(self.key, f"session|{ends}|{self.token}".encode(), hashlib.sha256).hexdigest()


def access_of(host: str, names: Iterable[str], token: str | None) -> Access:
    """Access to a server that listens on `host` and may be called by `names` too.

    On loopback without further names no token is needed; a token that is set is demanded there as well.
    Raises InputError where the token is needed and missing, or too short.
    """
    further = frozenset(host_of(name) for name in names)
    local = is_loopback(host)
    if not token and (not local or further):
        what = f"{TOKEN_VARIABLE} is not set, and more than this machine could ask"
        mend = f"set it to a secret of at least {TOKEN_LENGTH_MIN} characters, or serve on 127.0.0.1 without `names`"
        raise InputError(what, where=", ".join([host, *sorted(further)]), mend=mend)
    if token and len(token) < TOKEN_LENGTH_MIN:
        what = f"{TOKEN_VARIABLE} must have at least {TOKEN_LENGTH_MIN} characters, has {len(token)}"
        raise InputError(what, mend="make one with `python3 -c 'import secrets; print(secrets.token_urlsafe(32))'`")
    anywhere = not local and not further
    return Access(token or None, None if anywhere else LOCAL | {host.lower()} | further)
