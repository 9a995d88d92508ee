"""Captures of `cascadeguard poll`: what an exchange's public REST endpoints answered, as ccxt unifies it.

A line is one answer, or one thing that could not be had:

    {"poll": 1, "exchange", "venue", "kind", "symbol", "asked_at", "answered_at", "contract_size", <payload>}

`kind` names the payload: book, trades, funding, ticker, open_interest, intervals, gap, run. `known_at` is when the
answer arrived; `ts` is the venue's own stamp, or that moment where the venue tells none.
"""

from collections.abc import Iterator, Sequence

import polars as pl

from features.schema import DEPTH_BANDS_BPS
from pipelines.adapters.adapter import (
    SILENT,
    VENUE_NAME,
    Adapter,
    Batch,
    Kind,
    Origin,
    base_units,
    candidates,
    dollars,
    epoch,
    not_negative,
    number,
    plausible,
    positive,
    reasons,
    silent,
    with_instrument,
)
from pipelines.adapters.json_text import TEXT, Fields, decoded
from pipelines.adapters.rows import JsonLines
from pipelines.adapters.tardis.funding_interval import STANDARD_H

SIDES = ("bid", "ask")
MARKET = ("venue", "symbol")
SIZE_TOLERANCE = 1e-9  # of the contract size: two texts of one number
LEVELS = pl.List(pl.List(pl.Float64))
SHAPE: Fields = {
    **dict.fromkeys(("exchange", "venue", "kind", "symbol", "answered_at", "contract_size"), TEXT),
    "book": pl.Struct({"timestamp": TEXT, "bids": LEVELS, "asks": LEVELS}),
    "trades": pl.List(pl.Struct(dict.fromkeys(("id", "timestamp", "side", "price", "amount"), TEXT))),
    "funding": pl.Struct(
        {
            **dict.fromkeys(("timestamp", "fundingRate", "interval", "fundingTimestamp", "markPrice"), TEXT),
            "info": pl.Struct({"ts": TEXT}),
        }
    ),
    "ticker": pl.Struct(dict.fromkeys(("timestamp", "last", "markPrice", "indexPrice"), TEXT)),
    "open_interest": pl.Struct(
        dict.fromkeys(("timestamp", "openInterestAmount", "openInterestValue", "baseVolume"), TEXT)
    ),
    "intervals": pl.List(pl.Struct({"symbol": TEXT, "interval": TEXT})),
    "gap": pl.Struct(dict.fromkeys(("of", "from", "to", "why"), TEXT)),
}
TABLE_OF = {  # where the rows of a kind would have stood: a gap is refused there
    "book": "book_depth",
    "trades": "trades",
    "funding": "funding",
    "marks": "marks",
    "open_interest": "open_interest",
}
ABOUT_THE_RUN = ("run", "intervals")
# Exchanges whose raw funding answer carries a stamp, `ts`, that ccxt does not unify.
FUNDING_STAMPED = ("okx", "myokx", "okxus")


# --- lines -----------------------------------------------------------------------------------------------------------


def _iso(column: str) -> pl.Expr:
    """The moments that the poll itself wrote: `2026-01-01T00:00:00.000000Z`."""
    return pl.col(column).str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us", time_zone="UTC", strict=False)


def _read(pieces: Iterator[pl.DataFrame], origin: Origin) -> pl.DataFrame:
    """The lines of a whole capture, decoded. A capture is what one run was answered: minutes, not months."""
    lines = pl.concat(list(pieces)).select("line", pl.col("raw").alias("text"))
    read = decoded(lines, SHAPE)
    venue = pl.col("venue") if origin.venue is None else pl.lit(origin.venue)
    return read.with_columns(venue.alias("venue"), plausible(_iso("answered_at")).alias("known_at"))


def _of(read: pl.DataFrame, kind: str, payload: str) -> pl.DataFrame:
    return read.filter((pl.col("kind") == kind) & ~pl.col("broken") & pl.col(payload).is_not_null())


def _placed(rows: pl.DataFrame, origin: Origin, stamp: str = "timestamp") -> pl.DataFrame:
    """Add `ts` (the venue's stamp in milliseconds, else when the answer came) and the instrument."""
    told = pl.when(pl.col(stamp).is_null()).then("known_at").otherwise(epoch(stamp, 1000))
    stamped = rows.with_columns(told.alias("ts_told"))
    size = number("contract_size").alias("contract_size_told")
    placed = stamped.with_columns(plausible(pl.col("ts_told")).alias("ts"), size).drop("contract_size")
    return with_instrument(placed, origin.instruments)


def _place_checks() -> tuple[tuple[str, pl.Expr], ...]:
    """What must hold of every row, whatever its table."""
    ts, told, known = pl.col("ts").is_not_null(), pl.col("ts_told").is_not_null(), pl.col("known_at").is_not_null()
    own, size = pl.col("contract_size"), pl.col("contract_size_told")
    agreed = size.is_null() | own.is_null() | (pl.col("settlement") == "spot")
    return (
        ("unreadable_known_at", known),
        ("unreadable_ts", told | ~known),
        ("ts_out_of_range", ts | ~told),
        ("bad_venue_name", pl.col("venue").str.contains(f"^{VENUE_NAME.pattern}$")),
        ("unknown_symbol", own.is_not_null() | ~ts),
        ("contract_size_contradicted", agreed | ((size / own - 1).abs() <= SIZE_TOLERANCE)),
    )


# --- book ------------------------------------------------------------------------------------------------------------


def _levels(books: pl.DataFrame) -> pl.DataFrame:
    """One row per level: `line, side, place` (0 is the best), `price, amount`; none for an empty side."""
    sides = []
    for side in SIDES:
        count = pl.col(f"{side}s").list.len()
        rows = books.filter(count > 0).select("line", levels=f"{side}s", place=pl.int_ranges(count))
        exploded = rows.explode("levels", "place", empty_as_null=True, keep_nulls=True)
        level = pl.col("levels")
        price, amount = level.list.get(0, null_on_oob=True), level.list.get(1, null_on_oob=True)
        sides.append(exploded.select("line", "place", price=price, amount=amount, side=pl.lit(side)))
    return pl.concat(sides)


def _summed(levels: pl.DataFrame, side: str) -> pl.DataFrame:
    """Per line of one side: the best level, how far the levels reach, and whether they can be believed."""
    price, amount = pl.col("price"), pl.col("amount")
    step = price.diff() if side == "ask" else -price.diff()
    return (
        levels.filter(pl.col("side") == side)
        .group_by("line", maintain_order=True)
        .agg(
            price.first().alias(side),
            amount.first().alias(f"{side}_amount"),
            (price.max() if side == "ask" else price.min()).alias(f"{side}_reach"),
            (price.is_not_null() & amount.is_not_null()).all().alias(f"{side}_readable"),
            (positive("price") & not_negative("amount")).all().alias(f"{side}_sound"),
            (step.drop_nulls() > 0).all().alias(f"{side}_ordered"),
        )
    )


def _pictures(books: pl.DataFrame, levels: pl.DataFrame) -> pl.DataFrame:
    """One row per book, with its best quote in base units and the `reason` against it."""
    rows = books
    for side in SIDES:
        rows = rows.join(_summed(levels, side), on="line", how="left", maintain_order="left")
    bid, ask = pl.col("bid"), pl.col("ask")
    whole = bid.is_not_null() & ask.is_not_null()
    every = {what: pl.all_horizontal(pl.col(f"{side}_{what}").fill_null(True) for side in SIDES)
             for what in ("readable", "sound", "ordered")}  # fmt: skip
    reason = reasons(
        *_place_checks(),
        ("unreadable_level", every["readable"]),
        ("level_not_positive", every["sound"] | ~every["readable"]),
        ("one_sided_book", whole | ~every["readable"]),
        ("levels_out_of_order", every["ordered"] | ~every["sound"]),
        ("crossed_book", ~whole | (bid < ask) | ~every["sound"]),
    )
    told_us = pl.col("known_at").dt.epoch("us").alias("seq")
    sized = [base_units(pl.col(f"{side}_amount"), pl.col(side)).alias(f"{side}_qty") for side in SIDES]
    return rows.with_columns(told_us, *sized, reason)


def _within(side: str, band_bps: int) -> pl.Expr:
    """Dollars of one side within `band_bps` of the mid; null where its last level lies nearer than that."""
    share = band_bps / 10_000
    edge = pl.col("mid") * (1 + share if side == "ask" else 1 - share)
    near = pl.col("price") <= edge if side == "ask" else pl.col("price") >= edge
    reached = pl.col(f"{side}_reach") >= edge if side == "ask" else pl.col(f"{side}_reach") <= edge
    usd = pl.when(near).then(dollars(pl.col("amount"), pl.col("price"))).otherwise(0.0)
    return pl.when(reached.first()).then(usd.sum())


def _depth(pictures: pl.DataFrame, levels: pl.DataFrame) -> pl.DataFrame:
    """Rows of `book_depth` of the sound pictures; `item` counts bands and sides of a line."""
    sound = pictures.filter(pl.col("reason").is_null()).with_columns(mid=(pl.col("bid") + pl.col("ask")) / 2)
    place = ("line", "venue", "symbol", "ts", "known_at")
    held = levels.join(sound.select(*place, "mid", "bid_reach", "ask_reach", "settlement", "contract_size"), on="line")
    rows = [
        held.filter(pl.col("side") == side)
        .group_by(place)
        .agg(_within(side, band_bps).alias("depth_usd"))
        .with_columns(
            side=pl.lit(side), band_bps=pl.lit(band_bps, pl.Int32), item=pl.lit(2 * nth + (side == "ask"), pl.Int64)
        )
        for nth, band_bps in enumerate(DEPTH_BANDS_BPS)
        for side in SIDES
    ]
    return pl.concat(rows).drop_nulls("depth_usd").sort("line", "item")


def _book(read: pl.DataFrame, origin: Origin) -> dict[str, pl.DataFrame]:
    books = _placed(_of(read, "book", "book").unnest("book"), origin)
    levels = _levels(books)
    pictures = _pictures(books, levels)
    return {
        "quotes": candidates("quotes", pictures, pl.col("reason")),
        "book_depth": candidates("book_depth", _depth(pictures, levels), pl.lit(None, pl.String)),
    }


# --- trades ----------------------------------------------------------------------------------------------------------


def _trades(read: pl.DataFrame, origin: Origin) -> dict[str, pl.DataFrame]:
    """A row per trade of a page, in the order of the page; an amount counts contracts."""
    pages = _of(read, "trades", "trades")
    count = pl.col("trades").list.len()
    items = pl.int_ranges(count).cast(pl.List(pl.Int64)).alias("item")
    rows = pages.filter(count > 0).with_columns(items)
    rows = rows.explode("trades", "item", empty_as_null=True, keep_nulls=True).unnest("trades")
    rows = _placed(rows, origin).rename({"id": "trade_id", "price": "price_text"})
    rows = rows.with_columns(number("price_text").alias("price"), number("amount").alias("contracts"))
    rows = rows.with_columns(
        base_units(pl.col("contracts"), pl.col("price")).alias("qty"),
        dollars(pl.col("contracts"), pl.col("price")).alias("notional_usd"),
    )
    price, contracts = pl.col("price"), pl.col("contracts")
    reason = reasons(
        *_place_checks(),
        ("missing_trade_id", pl.col("trade_id") != ""),
        ("unknown_side", pl.col("side").is_in(("buy", "sell"))),
        ("unreadable_price", price.is_not_null()),
        ("price_not_positive", price.is_null() | positive("price")),
        ("unreadable_qty", contracts.is_not_null()),
        ("qty_not_positive", contracts.is_null() | positive("contracts")),
        ("size_out_of_range", pl.col("notional_usd").is_finite().fill_null(True)),
    )
    empty = pages.filter(count == 0)
    return {"trades": candidates("trades", rows, reason), SILENT: silent(empty, "no_trades")}


# --- slow series -----------------------------------------------------------------------------------------------------


def _hours(column: str) -> pl.Expr:
    """`8h` -> 8; null where it is not of that form."""
    return pl.col(column).str.extract(r"^(\d{1,3})h$").cast(pl.Float64, strict=False)


def _intervals(read: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """`venue, symbol, listed_h` of the exchange's list of unusual funding intervals, and the venues with a list."""
    lists = _of(read, "intervals", "intervals").drop("symbol")
    told = lists.filter(pl.col("intervals").list.len() > 0).explode("intervals", empty_as_null=True, keep_nulls=True)
    rows = told.unnest("intervals").select(*MARKET, _hours("interval").alias("listed_h")).drop_nulls()
    return rows.unique(MARKET, keep="last", maintain_order=True), lists["venue"].drop_nulls().unique().to_list()


def _funding(read: pl.DataFrame, origin: Origin) -> dict[str, pl.DataFrame]:
    """The rate that runs. `interval_h`: as the answer says, else as the list says; not listed: the venue's standard.

    The standard counts only where the next payment lies on its grid.
    """
    rows = _of(read, "funding", "funding").unnest("funding").unnest("info")
    raw = pl.when(pl.col("exchange").is_in(FUNDING_STAMPED)).then("ts")
    rows = _placed(rows.with_columns(pl.coalesce("timestamp", raw).alias("timestamp")).drop("ts"), origin)
    listed, venues = _intervals(read)
    rows = rows.join(listed, on=MARKET, how="left", maintain_order="left")
    standard = pl.col("venue").replace_strict(STANDARD_H, default=None, return_dtype=pl.Float64)
    due_ms = pl.col("fundingTimestamp").cast(pl.Int64, strict=False)
    usual = pl.when(pl.col("venue").is_in(venues) & (due_ms % (standard * 3_600_000) == 0)).then(standard)
    rows = rows.with_columns(
        number("fundingRate").alias("rate"), pl.coalesce(_hours("interval"), "listed_h", usual).alias("interval_h")
    )
    rate = pl.col("rate")
    reason = reasons(
        *_place_checks(),
        ("unreadable_rate", rate.is_not_null()),
        ("rate_out_of_range", rate.is_null() | (rate.is_finite() & rate.is_between(-1, 1))),
        ("unknown_funding_interval", pl.col("interval_h") > 0),
    )
    return {"funding": candidates("funding", rows, reason)}


def _marks(read: pl.DataFrame, origin: Origin) -> dict[str, pl.DataFrame]:
    """Each answer tells what it tells; what it lacks is null there and may stand in another answer."""
    told = {"mark": "markPrice", "index": "indexPrice", "last": "last"}
    rows = _placed(_of(read, "ticker", "ticker").unnest("ticker").rename({"last": "last_text"}), origin)
    told["last"] = "last_text"
    rows = rows.with_columns(number(text).alias(name) for name, text in told.items())
    priced = pl.any_horizontal(pl.col(text).is_not_null() for text in told.values())
    checks = [
        (word, check)
        for name, text in told.items()
        for word, check in (
            (f"unreadable_{name}", pl.col(text).is_null() | pl.col(name).is_not_null()),
            (f"{name}_not_positive", pl.col(name).is_null() | positive(name)),
        )
    ]
    return {
        "marks": candidates("marks", rows.filter(priced), reasons(*_place_checks(), *checks)),
        SILENT: silent(rows.filter(~priced), "no_price"),
    }


def _priced(read: pl.DataFrame) -> pl.DataFrame:
    """`line, price`: the latest mark of the market told up to that line of the capture, else the latest last price."""
    tickers, rates = pl.col("ticker").struct, pl.col("funding").struct
    text = {
        "mark_text": pl.coalesce(tickers.field("markPrice"), rates.field("markPrice")),
        "last": tickers.field("last"),
    }
    rows = read.with_columns(**text).with_columns(number("mark_text").alias("mark"), number("last").alias("last"))
    held = [
        pl.when(positive(name)).then(name).forward_fill().over(MARKET, order_by="line") for name in ("mark", "last")
    ]
    return rows.select("line", pl.coalesce(*held).alias("price"))


def _open_interest(read: pl.DataFrame, origin: Origin) -> dict[str, pl.DataFrame]:
    """Dollars as the venue tells them, else contracts at the price; base units of the contracts, else as told."""
    rows = _of(read, "open_interest", "open_interest").unnest("open_interest")
    rows = _placed(rows.join(_priced(read), on="line", how="left", maintain_order="left"), origin)
    texts = {"contracts": "openInterestAmount", "usd": "openInterestValue", "base_told": "baseVolume"}
    rows = rows.with_columns(number(text).alias(name) for name, text in texts.items())
    price, contracts, usd = pl.col("price"), pl.col("contracts"), pl.col("usd")
    rows = rows.with_columns(
        pl.coalesce(base_units(contracts, price), "base_told", usd / price).alias("oi_base"),
        pl.coalesce(usd, dollars(contracts, price)).alias("oi_usd"),
    )
    told = contracts.is_not_null() | usd.is_not_null()
    reason = reasons(
        *_place_checks(),
        ("unreadable_open_interest", told),
        ("open_interest_negative", pl.all_horizontal(pl.col(name).is_null() | not_negative(name) for name in texts)),
        ("missing_price", pl.col("oi_usd").is_not_null() | ~told),
    )
    return {"open_interest": candidates("open_interest", rows, reason)}


# --- gaps and the rest -----------------------------------------------------------------------------------------------


def _gaps(read: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """What could not be had stands in quarantine, in the table that lacks it, at the moment it was given up."""
    rows = _of(read, "gap", "gap").unnest("gap").with_columns(plausible(_iso("to")).alias("ts"))
    joined = pl.col("why").str.starts_with("not joined").fill_null(False)
    reason = pl.when(joined).then(pl.lit("trades_not_joined")).otherwise(pl.lit("not_answered"))
    missed = {table: rows.filter(pl.col("of") == kind) for kind, table in TABLE_OF.items()}
    found = {table: candidates(table, lost, reason) for table, lost in missed.items()}
    return found | {SILENT: silent(rows.filter(~pl.col("of").is_in(TABLE_OF).fill_null(False)), "unknown_kind")}


def _rest(read: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Lines that are no json, that are about the run, or of a kind that is not known here."""
    payload = [(kind, kind) for kind in ("book", "trades", "funding", "ticker", "open_interest", "gap")]
    speaks = pl.any_horizontal((pl.col("kind") == kind) & pl.col(name).is_not_null() for kind, name in payload)
    about = pl.col("kind").is_in(ABOUT_THE_RUN).fill_null(False)
    mute = read.filter(~pl.col("broken") & ~speaks.fill_null(False))
    broken = read.filter("broken").select("line")
    return {
        "trades": candidates("trades", broken, pl.lit("unreadable_json")),
        SILENT: pl.concat([silent(mute.filter(about), "about_the_run"), silent(mute.filter(~about), "unknown_kind")]),
    }


def _convert(pieces: Iterator[pl.DataFrame], origin: Origin) -> Iterator[Batch]:
    read = _read(pieces, origin)
    parts = (_book, _trades, _funding, _marks, _open_interest)
    found = [*(part(read, origin) for part in parts), _gaps(read), _rest(read)]
    names = dict.fromkeys(name for batch in found for name in batch)
    yield {name: pl.concat([batch[name] for batch in found if name in batch]) for name in names}


def _recognises(_: str, fields: Sequence[str]) -> bool:
    return bool(fields) and fields[0].lstrip().startswith("{") and '"poll"' in fields[0] and '"kind"' in fields[0]


ADAPTER = Adapter(
    name="ccxt",
    kinds=(
        Kind(
            name="polled",
            tables=("trades", "quotes", "book_depth", "marks", "funding", "open_interest"),
            layout=JsonLines(),
            recognises=_recognises,
            convert=_convert,
        ),
    ),
)
