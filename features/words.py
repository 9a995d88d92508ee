"""Sentences made of columns."""

import polars as pl


def sentence(template: str, *parts: pl.Expr | str) -> pl.Expr:
    """`template` with every `{}` replaced by the next of `parts` (a name stands for its column); null gives null.

    The same as `pl.format`, which panics in polars 2.1 where its inputs are split into different chunks. The
    guardrails have their own copy: they import nothing of this package.

    Raises ValueError if the number of places and parts differ.

    >>> pl.select(sentence("{} of {}", pl.lit(3), pl.lit("4 h"))).item()
    '3 of 4 h'
    """
    texts = template.split("{}")
    if len(texts) != len(parts) + 1:
        raise ValueError(f"template must have {len(parts)} places, had {len(texts) - 1}")
    woven: list[pl.Expr] = [pl.lit(texts[0])]
    for part, text in zip(parts, texts[1:], strict=True):
        woven += [pl.col(part) if isinstance(part, str) else part, pl.lit(text)]
    return pl.concat_str(woven)
