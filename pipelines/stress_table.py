"""A table that a user wrote: csv or parquet in, typed columns out, and every fault with the line it stands in."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from pipelines.errors import InputError

COLUMNAR = (".parquet", ".pq")
ROW = "row_number"
SHOWN_MAX = 12


@dataclass(frozen=True)
class Faults:
    """Everything that is wrong in all files, collected to be said at once; `where` is the file being read."""

    found: list[str] = field(default_factory=list)
    where: str = ""

    def of(self, path: Path) -> "Faults":
        return replace(self, where=str(path))

    def add(self, what: str) -> None:
        self.found.append(f"{self.where}: {what}" if self.where else what)

    def extend(self, many: Iterable[str]) -> None:
        for what in many:
            self.add(what)

    def raise_any(self) -> None:
        """Raises InputError that lists what was found, the first SHOWN_MAX of it; nothing was found: nothing."""
        if not self.found:
            return
        more = len(self.found) - SHOWN_MAX
        shown = " | ".join(self.found[:SHOWN_MAX]) + (f" | and {more} more" if more > 0 else "")
        raise InputError(f"{len(self.found)} fault{'s' * (len(self.found) > 1)}: {shown}")


@dataclass(frozen=True)
class Input:
    """Rows of one file with their place; a check adds its fault and lets the rows pass, so that all are found."""

    frame: pl.DataFrame
    faults: Faults
    unit: str  # what a place is called: line of a csv, row of a parquet file

    @classmethod
    def of(cls, path: Path, faults: Faults) -> "Input":
        """Read `path`: parquet by its suffix, anything else as csv, of which every value is text at first.

        Raises InputError where it cannot be read at all.
        """
        columnar = path.suffix.lower() in COLUMNAR
        try:
            frame = pl.read_parquet(path) if columnar else pl.read_csv(path, infer_schema=False)
        except OSError as error:
            raise InputError("cannot read", where=f"{path} ({error.strerror or error})") from None
        except pl.exceptions.PolarsError as error:
            said = str(error).split("\n", maxsplit=1)[0]
            raise InputError("cannot read", where=f"{path} ({said})", mend="it must be csv or parquet") from None
        named = frame.rename(str.strip)
        return cls(named.with_row_index(ROW, offset=1 if columnar else 2), faults, "row" if columnar else "line")

    def with_columns(self, *columns: pl.Expr) -> "Input":
        return replace(self, frame=self.frame.with_columns(*columns))

    def need(self, *names: str) -> bool:
        """True if all columns are there; says which are not."""
        missing = [name for name in names if name not in self.frame.columns]
        if missing:
            self.faults.add(f"columns are missing: {', '.join(missing)}")
        return not missing

    def refuse(self, bad: pl.Expr, what: str) -> None:
        """Adds the fault `what` with the count and the first place of rows where `bad`; null does not count."""
        places = self.frame.lazy().filter(bad).select(pl.len(), pl.col(ROW).min().alias("first")).collect()
        count, first = places.row(0)
        if count:
            self.faults.add(f"{what}, {self.unit} {first}" + (f" and {count - 1:,} more" if count > 1 else ""))

    def text(self, *names: str) -> "Input":
        """Columns as text without blanks around it; an empty or missing value is a fault."""
        found = self.with_columns(*(pl.col(name).cast(pl.String).str.strip_chars() for name in names))
        for name in names:
            found.refuse(pl.col(name).fill_null("") == "", f"`{name}` is empty")
        return found

    def optional_text(self, name: str) -> "Input":
        """A column as text, null where it is empty or where the file does not have it."""
        if name not in self.frame.columns:
            return self.with_columns(pl.lit(None, dtype=pl.String).alias(name))
        stripped = pl.col(name).cast(pl.String).str.strip_chars()
        return self.with_columns(pl.when(stripped != "").then(stripped).alias(name))

    def optional_numbers(self, name: str) -> "Input":
        """A column of finite numbers, null where it is empty or where the file does not have it."""
        if name not in self.frame.columns:
            return self.with_columns(pl.lit(None, dtype=pl.Float64).alias(name))
        is_text = self.frame.schema[name] == pl.String
        given = pl.col(name).str.strip_chars() if is_text else pl.col(name)
        number = given.cast(pl.Float64, strict=False)
        is_word = number.is_null() & ((given != "") if is_text else given.is_not_null())
        checked = self.with_columns(number.alias(name), is_word.fill_null(False).alias("is_word"))
        checked.refuse(pl.col("is_word") | ~pl.col(name).is_finite(), f"`{name}` must be a finite number")
        return checked

    def numbers(self, *names: str) -> "Input":
        """Columns of finite numbers, each value required."""
        found = self
        for name in names:
            found = found.optional_numbers(name)
            found.refuse(pl.col(name).is_null() & ~pl.col("is_word"), f"`{name}` is empty")
        return found
