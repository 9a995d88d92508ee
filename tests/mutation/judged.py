"""Survivors that a person has looked at: mutants that change nothing anybody can observe, each with its reason.

`judged.toml` holds a table `[[equivalent]]` per mutant or family of mutants: `module`, `where`, `original`, `mutated`
(as the run prints them) and `why`.
"""

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutants import Mutant

FILE = Path(__file__).with_name("judged.toml")


@dataclass(frozen=True, slots=True)
class Judged:
    module: str
    where: str
    original: str
    mutated: str
    why: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.module, self.where, self.original, self.mutated


def judged(file: Path = FILE) -> list[Judged]:
    """Every judgement of the list.

    Raises TypeError for a word that is missing or unknown, ValueError for a judgement without a reason.
    """
    if not file.exists():
        return []
    found = [Judged(**entry) for entry in tomllib.loads(file.read_text(encoding="utf-8")).get("equivalent", [])]
    if any(not entry.why.strip() for entry in found):
        raise ValueError("every judged mutant must say why it changes nothing")
    return found


def gone(found: Sequence[Judged], mutants: Iterable[Mutant]) -> list[Judged]:
    """Judgements of mutants that no longer exist: the source has changed, look again."""
    wanted = {(entry.module, entry.where) for entry in found}
    there = {mutant.key for mutant in mutants if (mutant.module, mutant.where) in wanted}
    return [entry for entry in found if entry.key not in there]
