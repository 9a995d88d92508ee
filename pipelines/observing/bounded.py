"""A call that may hang, for a bounded time."""

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_time(call: Callable[[], T], timeout_s: float) -> T | None:
    """What `call` returns, None where it has not returned after `timeout_s`; it must not raise.

    It runs in a daemon thread: one that hangs in a socket is left behind and ends with the process, which waits for no
    such thread.

    >>> in_time(lambda: "done", 1.0)
    'done'
    """
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(call()), name="in-time", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else None
