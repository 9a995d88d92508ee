"""What can go wrong with the registry, in one line that says what, where and how to mend it, and never a password."""

import os
import re
from urllib.parse import unquote, urlsplit

SECRET_CHARACTERS_MIN = 4  # shorter ones would blot out ordinary words
SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_USER = re.compile(r"(?<=://)[^/\s'\"]*@")
_NAMED = re.compile(r"(?i)\b(password|passwd|token|secret)=[^&\s'\"]+")


class RegistryError(Exception):
    """The registry could not be reached, read or written; one line. Scoring goes on without the model.

    >>> str(RegistryError("load it", "no answer", where="http://host", mend="start the server"))
    'model registry: cannot load it (no answer): http://host; start the server'
    """

    def __init__(self, doing: str, why: str, *, where: str, mend: str) -> None:
        super().__init__(" ".join(f"model registry: cannot {doing} ({why}): {where}; {mend}".split()))


class UnusableModelError(RegistryError):
    """The registry answered, but its model cannot be used here: changed, half written, or of another format."""


class CheckError(Exception):
    """What a check found, and how to mend it; `Store.reported` adds what was being done and where."""

    def __init__(self, why: str, mend: str) -> None:
        super().__init__(why)
        self.why, self.mend = why, mend


def secrets_of(uri: str) -> tuple[str, ...]:
    """Passwords that may turn up in a message: that of `uri`, as written and decoded, and those of the environment.

    >>> secrets_of("http://me:p%40ss@host/x")
    ('p%40ss', 'p@ss')
    """
    try:
        password = urlsplit(uri).password or ""
    except ValueError:
        password = ""
    found = [password, unquote(password), *(os.environ.get(name, "") for name in SECRET_VARIABLES)]
    return tuple(dict.fromkeys(secret for secret in found if len(secret) >= SECRET_CHARACTERS_MIN))


def hidden(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` without user and password of any address in it, without `password=...`, and without `secrets`.

    >>> hidden("no answer from postgresql://me:hunter2@db:5432/x?password=hunter2 (hunter2)", ("hunter2",))
    'no answer from postgresql://***@db:5432/x?password=*** (***)'
    """
    text = _NAMED.sub(r"\1=***", _USER.sub("***@", text))
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def one_line(error: BaseException, secrets: tuple[str, ...] = ()) -> str:
    """Kind and first line of `error`; hidden before it is cut, so that no half of a password is left."""
    lines = hidden(str(error), secrets).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
