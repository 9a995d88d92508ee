"""Pages on disk: written whole or not at all."""

import contextlib
import os
from pathlib import Path

from pipelines.errors import InputError


def write_page(path: Path, text: str, option: str = "--out") -> int:
    """Write beside `path` and move into place: a reader never sees half a page. Returns the size in bytes.

    Raises InputError where that cannot be done; `option` is what names the file.
    """
    content = text.encode()
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise InputError(
            f"the page cannot be written ({error.strerror})", where=path, mend=f"name a file that can be, with {option}"
        ) from None
    return len(content)
