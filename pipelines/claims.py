"""Who may write a partition that was given out to other machines: whoever was given it last, while the giver lives.

    L/schedule/claims/<driver>.held   held, by a kernel lock, by the command that gives out partitions
    L/schedule/claims/<driver>/       a file per partition: the number of whoever began it last

A worker that hangs is taken for dead and its partition is given to another, which takes the claim. Should the first
wake up, it finds another's number, at the latest before its next commit, and fails there without writing. Where a
command has ended its folder is gone, and so is the right to write; the folder of one that was killed is removed by the
next one.
"""

import fcntl
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipelines.operating.lease import schedule_folder
from pipelines.pools import OvertakenError


class RevokedError(Exception):
    """The command that gave out this partition has ended: nobody waits for it, and it must not be written."""


@dataclass(frozen=True)
class Claim:
    """The right to write a partition, for as long as its file holds `number`."""

    path: Path
    number: str

    def check(self) -> None:
        """Raises OvertakenError or RevokedError where the right is gone. Reads a file of a few bytes."""
        try:
            newest = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RevokedError("the command that gave out this partition has ended") from None
        if newest != self.number:
            raise OvertakenError("this worker was taken for dead and another has taken over its partition")


def claim(folder: Path, partition: str) -> Claim:
    """Take a partition, from whoever had it before. Raises RevokedError where the driver's folder is gone."""
    number = uuid.uuid4().hex
    path, beside = folder / hashlib.sha256(partition.encode()).hexdigest(), folder / f".{number}"
    try:
        beside.write_text(number, encoding="utf-8")
        beside.replace(path)
    except FileNotFoundError:
        raise RevokedError("the command that gave out this partition has ended") from None
    return Claim(path, number)


@contextmanager
def driver(root: Path) -> Iterator[Path]:
    """The folder of claims of this command, in the lake at `root`; claims of commands that were killed are revoked."""
    home = schedule_folder(root) / "claims"
    home.mkdir(parents=True, exist_ok=True)
    _revoke_dead(home)
    folder = home / uuid.uuid4().hex
    with folder.with_suffix(".new").open("x", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write(folder.name)
        held.flush()
        folder.with_suffix(".new").rename(held_path(folder))  # seen by others only once it is locked
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            held_path(folder).unlink(missing_ok=True)


def held_path(folder: Path) -> Path:
    """The file that a driver holds; it says the name of its folder."""
    return folder.with_suffix(".held")


def is_held(path: Path) -> bool:
    """Whether somebody else holds the kernel lock of `path`. Raises OSError where that cannot be asked."""
    with path.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _revoke_dead(home: Path) -> None:
    for path in home.glob("*.held"):
        with suppress(FileNotFoundError):
            if not is_held(path):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink()
