"""Sentences hold whatever the table looks like inside."""

import polars as pl
import pytest

from guardrails.wording import sentence, times_expr, usd_expr


def test_inputs_in_different_chunks_are_worded_like_any_other():
    """Would have caught: `pl.format` panics where one input comes in more chunks than another."""
    split = pl.concat([pl.DataFrame({"a": [i]}) for i in range(5)], rechunk=False)
    table = split.with_columns(pl.Series("b", [1e3, None, 2e6, 3e9, 4.0], dtype=pl.Float64))
    said = table.select(sentence("{} has {}", "a", usd_expr(pl.col("b")))).to_series().to_list()
    assert said == ["0 has 1.0 k USD", None, "2 has 2.0 M USD", "3 has 3.0 bn USD", "4 has 4 USD"]


def test_a_table_without_rows_has_no_sentences():
    empty = pl.DataFrame(schema={"a": pl.Float64})
    words = empty.select(sentence("{} of {}", times_expr(pl.col("a")), pl.lit("x"))).to_series()
    assert words.to_list() == []


def test_a_sentence_with_too_few_places_is_refused():
    with pytest.raises(ValueError, match=r"^template must have 1 places, had 2$"):
        sentence("{} and {}", "a")
