"""What must be computed for which bars."""

from collections.abc import Sequence

import polars as pl
import pytest

from features.exact import collecting, once, rolling_mean
from features.plans import Plan, looks_back, plan_of

X, Y = pl.col("x"), pl.col("y")


ROWS = pl.DataFrame({"x": [1.0, 2.0, 4.0, None, 8.0], "y": [1, 1, 1, 1, 1]})


def _one_by_one(expr: pl.Expr) -> list[object]:
    return [ROWS.slice(row, 1).select(expr).item() for row in range(ROWS.height)]


def _names(steps: Sequence[Sequence[pl.Expr]]) -> list[list[str]]:
    return [[expr.meta.output_name() for expr in step] for step in steps]


@pytest.mark.parametrize(
    "expr",
    [
        X + X.shift(3),
        X.diff().abs(),
        pl.when(Y > 0).then(X.rolling_max(3, min_samples=1)),
        X.rolling_sum(3).log(),
        X.forward_fill(),
        X.cum_sum(),
        X.ewm_mean(alpha=0.5),
        X.sum().over("y"),
    ],
    ids=str,
)
def test_what_reads_other_bars_is_told_from_its_text(expr: pl.Expr) -> None:
    assert _one_by_one(expr) != ROWS.select(expr).to_series().to_list()
    assert looks_back(expr)


@pytest.mark.parametrize("expr", [X + Y, X.log().clip(0.0, 1.0), pl.max_horizontal(X, Y), pl.struct(X, Y)], ids=str)
def test_what_reads_its_own_bar_alone_does_not_look_back(expr: pl.Expr) -> None:
    assert _one_by_one(expr) == ROWS.select(expr).to_series().to_list()
    assert not looks_back(expr)


def _planned() -> Plan:
    with collecting() as columns:
        level = once(X.log())
        usual = rolling_mean(level, 3)  # looks back on `level`
        ratio = once(level - usual)
        exprs = [ratio.alias("ratio"), (ratio * Y).alias("y"), X.shift().alias("before")]
    return plan_of(exprs, 3, columns)


def test_only_what_looks_back_and_what_it_reads_is_computed_for_every_bar() -> None:
    planned = _planned()
    assert _names(planned.behind) == [["once_0", "window of before"], ["window_1"]]
    assert _names(planned.columns) == [["once_2"]]
    assert planned.reads == {"x", "y"}
    assert planned.carried == ("once_0", "window of before", "window_1", "y")


def test_a_name_that_is_a_column_of_the_inputs_too_is_told_apart() -> None:
    """`y` is read as it came in, although what is asked for has the same name."""
    planned = plan_of([Y.shift().alias("y"), (Y + 1).alias("z")], 1)
    assert planned.carried == ("window of y", "y")
    rows = pl.DataFrame({"y": [1, 2]}).with_columns(planned.behind[0]).select(planned.exprs)
    assert rows.rows() == [(None, 2), (1, 3)]
