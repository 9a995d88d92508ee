"""Mutation testing of `guardrails/`: make small mistakes in the rules, one at a time, and see whether a test fails.

`python -m tests.mutation.guardrails [--module caps ...] [--sample 300 --seed 1] [--again] [--known]`

Prints how many mutants were killed, timed out, judged equivalent and survived per module, and every survivor with its
place. What was found is kept in `.mutation/results.jsonl`, so that a run that was cut off goes on where it stood; a
result is valid as long as its module's source is the same and no test is taken away. `--again` runs known survivors
once more, after new tests; `--known` runs nothing and reports what is known. Mutants are run in a random order, so a
part of a run is a sample. Ends with 1 where fewer than 95 % are killed or a judgement is of a mutant that is gone.
"""

import argparse
import ast
import hashlib
import json
import random
import resource
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from tests.mutation.judged import gone, judged
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.reach import ROOT, Reach, measured
from tests.mutation.runner import KILLED, SURVIVED, TIMED_OUT, judged_by_tests, ordered

FOLDER = ROOT / ".mutation"
RESULTS = FOLDER / "results.jsonl"
EQUIVALENT = "equivalent"
KILLED_SHARE_MIN = 0.95
QUICK_S = 0.1
TESTS_S_MAX = 10.0  # seconds of tests that a mutant must survive


@dataclass(frozen=True)
class Source:
    """A module of `guardrails/`: its file and the hash under which its results are kept."""

    name: str
    file: Path
    sha256: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.file.read_text(encoding="utf-8"))


def sources(names: Iterable[str]) -> list[Source]:
    files = sorted((ROOT / "guardrails").glob("*.py"))
    known = {file.stem: file for file in files if file.stem != "__init__"}
    wanted = list(names) or list(known)
    if unknown := sorted(set(wanted) - set(known)):
        raise SystemExit(f"no such module of guardrails: {', '.join(unknown)}; there are {', '.join(known)}")
    return [
        Source(f"guardrails.{name}", known[name], hashlib.sha256(known[name].read_bytes()).hexdigest())
        for name in wanted
    ]


Place: TypeAlias = tuple[str, str, int]  # module, hash of its source, number of the mutant in it


def kept() -> dict[Place, str]:
    """What earlier runs found; the newest result of a mutant stands."""
    if not RESULTS.exists():
        return {}
    rows = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return {(row["module"], row["sha256"], row["number"]): row["result"] for row in rows}


@dataclass(frozen=True, slots=True)
class Found:
    """A mutant, its place among those of its module, and what became of it."""

    source: Source
    number: int
    mutant: Mutant
    result: str | None = None  # None: not run yet

    @property
    def place(self) -> Place:
        return self.source.name, self.source.sha256, self.number


def chosen(wanted: Iterable[Source], sample: int | None, seed: int) -> list[Found]:
    """The mutants of the modules in a random order, or the first of them: a run that is cut off is a fair sample."""
    known = kept()
    every = [
        Found(source, number, mutant, known.get((source.name, source.sha256, number)))
        for source in wanted
        for number, mutant in enumerate(mutants(source.name, source.tree))
    ]
    random.Random(seed).shuffle(every)
    return every[:sample]


def run(found: Iterable[Found], reach: Reach, *, again: bool, tests_s_max: float) -> Iterator[Found]:
    """Every mutant with its result, run where it is not known yet; what is found is written down at once."""
    excused = {entry.key for entry in judged()}
    killers: dict[str, list[str]] = defaultdict(list)
    for one in found:
        if one.result is None or (again and one.result == SURVIVED and one.mutant.key not in excused):
            lately = killers[one.source.name]
            tests = ordered(one.mutant, one.source.file, reach, tests_s_max, lately)
            result, killer = judged_by_tests(one.mutant, one.source.tree, one.source.file, tests, reach)
            if killer:
                killers[one.source.name] = [*(test for test in lately if test != killer), killer]
            with RESULTS.open("a", encoding="utf-8") as file:
                row = dict(zip(("module", "sha256", "number"), one.place, strict=True))
                file.write(json.dumps(row | {"result": result, "killer": killer}) + "\n")
            one = replace(one, result=result)  # noqa: PLW2901
        yield one


def _must_pass(source: Source, reach: Reach) -> None:
    """Tests that fail without a mistake would kill every mutant; the quick ones show whether they can run here."""
    own = f"tests/guardrails/test_{source.file.stem}.py"
    quick = [test for test, took in reach.seconds.items() if test.startswith(own) and took < QUICK_S]
    if judged_by_tests(None, source.tree, source.file, quick, reach)[0] != SURVIVED:
        raise SystemExit(f"the tests of {source.name} do not pass as it stands")


def told(name: str, found: Iterable[Found]) -> str:
    counts = Counter(one.result for one in found)
    numbers = (counts[kind] for kind in (KILLED, TIMED_OUT, EQUIVALENT, SURVIVED))
    return f"{name:24} {sum(counts.values()):7}" + "".join(f" {number:10}" for number in numbers)


def report(ran: Iterable[Found], wanted: list[Source]) -> int:
    """Print the table, every survivor and every judgement that is gone; 1 where that is not good enough."""
    excused = {entry.key for entry in judged()}
    found = [
        replace(one, result=EQUIVALENT) if one.result == SURVIVED and one.mutant.key in excused else one for one in ran
    ]
    heads = (KILLED, TIMED_OUT, EQUIVALENT, SURVIVED)
    print(f"{'module':24} {'mutants':>7}" + "".join(f" {kind:>10}" for kind in heads))
    for source in wanted:
        print(told(source.name, [one for one in found if one.source == source]))
    print(told("all", found))
    for one in sorted((one for one in found if one.result == SURVIVED), key=lambda one: one.place):
        file, mutant = one.source.file.relative_to(ROOT), one.mutant
        print(f"{file}:{mutant.line}: {mutant.where}: {mutant.original} -> {mutant.mutated}")
    every = [mutant for source in wanted for mutant in mutants(source.name, source.tree)]
    names = {source.name for source in wanted}
    lost = gone([entry for entry in judged() if entry.module in names], every)
    for entry in lost:
        print(
            f"judged, but there is no such mutant: {entry.module}: {entry.where}: {entry.original} -> {entry.mutated}"
        )
    counts = Counter(one.result for one in found)
    meant = len(found) - counts[EQUIVALENT]
    share = (counts[KILLED] + counts[TIMED_OUT]) / meant if meant else 1.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"killed {share:.1%} of {meant} that change something; {(used.ru_utime + used.ru_stime) / 60:.1f} min of CPU")
    return int(share < KILLED_SHARE_MIN or bool(lost))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--module", nargs="*", default=[], help="modules of guardrails; all without it")
    parser.add_argument("--sample", type=int, help="so many mutants, drawn from all of the modules")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="run what survived once more, and nothing else")
    parser.add_argument("--known", action="store_true", help="run nothing: report what earlier runs found")
    parser.add_argument(
        "--tests-s", type=float, default=TESTS_S_MAX, help="seconds of tests that a mutant must survive"
    )
    asked = parser.parse_args(argv)
    wanted = sources(asked.module)
    found = chosen(wanted, asked.sample, asked.seed)
    if asked.known or asked.again:
        found = [one for one in found if one.result is not None]
    if asked.known:
        return report(found, wanted)
    reach = measured(FOLDER)
    for source in wanted:
        _must_pass(source, reach)
    return report(run(found, reach, again=asked.again, tests_s_max=asked.tests_s), wanted)


if __name__ == "__main__":
    sys.exit(main())
