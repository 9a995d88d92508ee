"""How numbers are said in a reason: short, with their unit, the same everywhere."""

import polars as pl


def sentence(template: str, *parts: pl.Expr | str) -> pl.Expr:
    """`template` with every `{}` replaced by the next of `parts` (a name stands for its column); null gives null.

    The same as `pl.format`, which panics in polars 2.1 where its inputs are split into different chunks.

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


def percent(share: float) -> str:
    """
    >>> percent(0.025), percent(0.5)
    ('2.5 %', '50.0 %')
    """
    return f"{share * 100:.1f} %"


def seconds(age_s: float) -> str:
    """
    >>> seconds(300.0)
    '300 s'
    """
    return f"{age_s:.0f} s"


def deviations(sigmas: float) -> str:
    """
    >>> deviations(5.33)
    '5.33 sd'
    """
    return f"{sigmas:g} sd"


def times(ratio: float) -> str:
    """
    >>> times(1000.0), times(0.5)
    ('1000x', '0.5x')
    """
    return f"{ratio:.10g}x"


def minutes(count: float) -> str:
    """
    >>> minutes(5.0)
    '5 min'
    """
    return f"{count:g} min"


def percent_expr(share: pl.Expr) -> pl.Expr:
    """
    >>> pl.select(percent_expr(pl.lit(-0.0721))).item()
    '-7.2 %'
    """
    return sentence("{} %", (share * 100).round(1))


def seconds_expr(age_s: pl.Expr) -> pl.Expr:
    """
    >>> pl.select(seconds_expr(pl.lit(311.7))).item()
    '312 s'
    """
    return sentence("{} s", age_s.round(0).cast(pl.Int64, strict=False))


def minutes_expr(count: pl.Expr) -> pl.Expr:
    """
    >>> pl.select(minutes_expr(pl.lit(7.0))).item()
    '7 min'
    """
    return sentence("{} min", count.cast(pl.Int64, strict=False))


def deviations_expr(sigmas: pl.Expr) -> pl.Expr:
    """
    >>> pl.select(deviations_expr(pl.lit(8.126))).item()
    '8.13 sd'
    """
    return sentence("{} sd", sigmas.round(2))


def times_expr(ratio: pl.Expr) -> pl.Expr:
    """
    >>> pl.select(times_expr(pl.lit(12.34)), two=times_expr(pl.lit(2.0))).row(0)
    ('12.34x', '2x')
    """
    rounded = ratio.round(2)
    whole = rounded == rounded.floor()
    return (
        pl.when(whole).then(sentence("{}x", rounded.cast(pl.Int64, strict=False))).otherwise(sentence("{}x", rounded))
    )


def usd_expr(amount: pl.Expr) -> pl.Expr:
    """
    >>> pl.DataFrame({"usd": [950.0, 10_000.0, 2_500_000.0]}).select(usd_expr(pl.col("usd"))).to_series().to_list()
    ['950 USD', '10.0 k USD', '2.5 M USD']
    """
    return (
        pl.when(amount < 1e3)
        .then(sentence("{} USD", amount.round(0).cast(pl.Int64, strict=False)))
        .when(amount < 1e6)
        .then(sentence("{} k USD", (amount / 1e3).round(1)))
        .when(amount < 1e9)
        .then(sentence("{} M USD", (amount / 1e6).round(1)))
        .otherwise(sentence("{} bn USD", (amount / 1e9).round(1)))
    )
