"""Damaged files for every kind an adapter reads: what must hold is that nothing raises and no line is lost.

python -m tests.pipelines.fuzz 20000        # as many tries, each told on failure
"""

import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import polars as pl

from pipelines import intake
from pipelines.adapters import Adapter, Kind, Origin, adapter_named
from pipelines.adapters.adapter import Batch
from pipelines.adapters.rows import Columnar, Delimited, JsonDocument, JsonTable
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.ingest import ingest
from pipelines.instruments import InstrumentBook, load_instruments
from pipelines.lake import Lake
from tests.pipelines.samples import MAPPING, SAMPLES, Sample

NUMBERS = (
    b"nan",
    b"inf",
    b"-inf",
    b"1e999",
    b"-0",
    b"0",
    b"-1",
    b"99999999999999999999",
    b"1e-320",
    b"",
    b"null",
    b'"7"',
    b"x",
)


def _flip(content: bytes, dice: random.Random) -> bytes:
    mangled = bytearray(content)
    for _ in range(dice.randint(1, 6)):
        mangled[dice.randrange(len(mangled))] = dice.randrange(256)
    return bytes(mangled)


def _cut(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content))]


def _lines(content: bytes, dice: random.Random) -> bytes:
    """One line is cut short, doubled, dropped, or put elsewhere."""
    lines = content.split(b"\n")
    place = dice.randrange(len(lines))
    line = lines[place]
    fates = ([line[: dice.randrange(len(line) + 1)]], [line, line], [], [b"", line], [line + line])
    return b"\n".join([*lines[:place], *dice.choice(fates), *lines[place + 1 :]])


def _number(content: bytes, dice: random.Random) -> bytes:
    """One run of digits becomes something else."""
    digits = [place for place, byte in enumerate(content) if byte in b"0123456789"]
    if not digits:
        return content
    start = end = dice.choice(digits)
    while end < len(content) and content[end] in b"0123456789.":
        end += 1
    return content[:start] + dice.choice(NUMBERS) + content[end:]


def _column(content: bytes, dice: random.Random) -> bytes:
    """One column is dropped, or two are swapped, in every line."""
    rows = [line.split(b",") for line in content.split(b"\n")]
    width = max(map(len, rows))
    place, other = dice.randrange(width), dice.randrange(width)
    if dice.random() < 0.5:
        return b"\n".join(b",".join(row[:place] + row[place + 1 :]) for row in rows)
    for row in rows:
        if max(place, other) < len(row):
            row[place], row[other] = row[other], row[place]
    return b"\n".join(b",".join(row) for row in rows)


WAYS = (_flip, _cut, _lines, _number, _number, _column)


def mangled(content: bytes, dice: random.Random) -> bytes:
    """`content` damaged in one to three ways."""
    for _ in range(dice.randint(1, 3)):
        if content:
            content = dice.choice(WAYS)(content, dice)
    return content


class _Heard:
    """The lines that a kind handed out, and those that it was handed."""

    def __init__(self, kind: Kind) -> None:
        self.given: set[int] = set()
        self.told: set[int] = set()
        self.kind = replace(kind, convert=self._convert)
        self._inner = kind.convert

    def _convert(self, pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
        for batch in self._inner(self._listened(pieces), origin):
            for rows in batch.values():
                self.told |= set(rows["line"].to_list())
            yield batch

    def _listened(self, pieces: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        for piece in pieces:
            self.given |= set(piece["line"].to_list())
            yield piece


def _lines_of(path: Path, kind: Kind) -> int:
    """How many lines or rows the file holds, counted without the project's readers."""
    if isinstance(kind.layout, (Columnar, JsonDocument, JsonTable)):
        return -1
    text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode()
    filled = [line for line in text.split("\n") if line.strip(" \t\r")]
    header = isinstance(kind.layout, Delimited) and kind.layout.header(
        tuple(part.strip(" \t\r").strip('"').strip(" \t\r").lower() for part in filled[0].split(kind.layout.separator))
    )
    return len(filled) - header


def mapping_of(sample: Sample, folder: Path) -> Path | None:
    """The mapping file of a sample of the adapter `table`, written to `folder`."""
    if sample.choice.mapping is None:
        return None
    path = folder / sample.choice.mapping
    path.write_text(MAPPING)
    return path


def try_one(path: Path, sample: Sample, book: InstrumentBook, root: Path) -> str:
    """Read `path` as `sample`'s kind up to the point where it would be stored; says what became of it.

    Raises AssertionError if a line was lost, and lets through whatever is not an InputError.
    """
    adapter: Adapter = adapter_named(sample.adapter, mapping_of(sample, root))
    kind = next(kind for kind in adapter.kinds if kind.name == sample.kind)
    heard = _Heard(kind)
    source = intake.Source(path, "0" * 64, adapter, heard.kind)
    lake = Lake(root / "lake")
    try:
        staging = intake.stage(source, Origin(path.name, sample.choice.venue, book, sample.choice.symbol), lake)
    except InputError:
        return "refused whole"
    judged = [intake._judged(source, staging, lake, table) for table in kind.tables if staging.rows_read[table]]
    assert heard.given == heard.told, f"lines lost: {sorted(heard.given ^ heard.told)[:5]}"
    wanted = _lines_of(path, kind)
    assert wanted in (-1, len(heard.given)), f"{wanted} lines in the file, {len(heard.given)} read"
    for found in judged:
        read = staging.rows_read[found.table]
        assert read == found.accepted + found.refused.height, f"{found.table}: {read} read"
        assert not found.refused["reason"].is_null().any()
    staging.remove()
    return "with refusals" if any(found.refused.height for found in judged) else "taken"


def fuzz(tries: int, seed: int) -> Counter[str]:
    """Damage every sample in turn; counts of what became of the files."""
    dice = random.Random(seed)
    book = load_instruments(Config())
    fates: Counter[str] = Counter()
    root = Path(tempfile.mkdtemp())
    try:
        for nth in range(tries):
            sample = SAMPLES[nth % len(SAMPLES)]
            path = root / sample.name
            content = mangled(sample.content, dice) if nth >= len(SAMPLES) else sample.content
            path.write_bytes(content)
            try:
                fates[try_one(path, sample, book, root)] += 1
            except Exception as error:
                kept = Path(tempfile.gettempdir()) / f"fuzz-{seed}-{nth}-{sample.name}"
                kept.write_bytes(content)
                raise AssertionError(
                    f"{sample.adapter}/{sample.kind}, try {nth} of seed {seed}, kept in {kept}"
                ) from error
            path.unlink()
    finally:
        shutil.rmtree(root)
    return fates


def ingest_all(folder: Path, lake: Lake, samples: tuple[Sample, ...] = SAMPLES) -> int:
    """Put every sample into one lake by the public door; returns the number of rows accepted."""
    rows = 0
    for sample in samples:
        path = folder / sample.name
        path.write_bytes(sample.content)
        with suppress(InputError):
            summary = ingest(
                sample.adapter,
                [path],
                lake,
                Config(),
                replace(sample.choice, kind=sample.kind, mapping=mapping_of(sample, folder)),
            )
            rows += summary.rows_accepted
    return rows


if __name__ == "__main__":
    wanted, seeded = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    print(dict(fuzz(wanted, seeded)), "of", len(SAMPLES), "kinds of files")
