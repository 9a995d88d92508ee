"""How the report says things: numbers, times, and machine words in the words of a risk desk."""

import math
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

NOTHING = "–"
AGAINST_USUAL = "{:,.1f} sd above the usual"

FAMILIES = {
    "cancels": "order cancels",
    "leverage": "leverage",
    "crowding": "crowding",
    "thin_book": "thin book",
    "structure": "cascade structure",
    "context": "context",
    "drift": "drift from the usual",
    "health": "data health",
}


def _drifted(what: str) -> tuple[str, tuple[str, str], Callable[[float], float]]:
    """The words of a measure of drift; its value is a signed -log10 p."""
    above, below = (
        f"{what} {side} this hour's usual, as chance has it once in {{:,.0f}}" for side in ("above", "below")
    )
    return f"{what} drifted", (above, below), lambda x: math.copysign(10 ** abs(x), x)


# name without its window -> what it is about; how its value is said (or how a positive and a negative one is); from
# the feature's value to the one that is said
FEATURES: dict[str, tuple[str, str | tuple[str, str], Callable[[float], float]]] = {
    "cancel_burst": ("cancel burst", "cancelled dollars " + AGAINST_USUAL, float),
    "cancel_rate_score": ("cancel rate", "cancelled dollars {:,.1f} robust sd above the usual", float),
    "cancel_tail": ("cancel burst", "so many cancels happen once in {:,.0f} windows", lambda x: 10**x),
    "cancel_to_trade": ("cancels over trades", "{:,.1f} orders cancelled per trade", math.exp),
    "cancel_to_add": ("book taken down", "{:,.1f} dollars cancelled per dollar added", math.exp),
    "cancel_near_share": ("near cancels", "nearness of the cancels {:.0f} % (100: at the touch)", lambda x: 100 * x),
    "net_fleeting": ("book emptying", "cancelled beyond added: {:,.2f} times the depth", float),
    "cancel_side": ("one-sided cancels", "side of the cancels {:+.2f} (+1: bids leave)", float),
    "cancel_branching": ("cancels set off cancels", "each cancel sets off {:.2f} further ones", float),
    "cancel_sync": ("cancel burst everywhere", "{:.0f} % of the symbols are in a cancel burst", lambda x: 100 * x),
    "cancel_follow": ("cancel burst after others", "cancel burst after others, strength {:,.1f}", float),
    "replenish": ("book does not refill", "{:.0f} % of what was taken has come back", lambda x: 100 * math.exp(x)),
    "quote_stuffing": ("messages per trade", "{:,.0f} messages per trade", math.exp),
    "oi_change": ("open interest", "open interest changed {:+.1f} %", lambda x: 100 * math.expm1(x)),
    "oi_score": ("open interest", "change of open interest {:+,.1f} sd from the usual", float),
    "oi_over_volume": ("open interest over volume", "open interest {:,.1f} times the volume", math.exp),
    "oi_over_depth": ("open interest over depth", "open interest {:,.0f} times the thinner side", math.exp),
    "oi_quadrant": ("who moves the price", "open-interest quadrant {:+.0f} (2: risk is added)", float),
    "oi_build_side": ("who built", "side that built what is open {:+.2f} (+1: longs)", float),
    "oi_drawdown": ("unwinding", "open interest {:.1f} % below its high", lambda x: -100 * math.expm1(-x)),
    "ladder_share": ("ladder of leverage", "{:.1f} % of open interest may trip within 5 %", lambda x: 100 * x),
    "ladder_side": ("side of the ladder", "side of the ladder near the price {:+.2f} (+1: longs)", float),
    "ladder_doubt": ("doubt of the ladder", "bold and careful ladder differ {:,.1f}-fold", math.exp),
    "fuel_over_depth": ("fuel over depth", "forced flow of a 5 % move is {:,.2f} times the book", float),
    "fuel_over_depth_100": ("fuel over depth", "forced flow of a 1 % move is {:,.2f} times the book", float),
    "fuel_side": ("side of the fuel", "side that would be forced {:+.2f} (+1: longs)", float),
    "leverage_p90": ("account leverage", "a tenth of the notional is levered above {:,.1f}×", float),
    "leverage_change": ("account leverage", "leverage {:,.2f} times that before", math.exp),
    "leverage_shift": ("leverage distribution", "leverages moved by {:.0f} %", lambda x: 100 * math.expm1(x)),
    "leverage_tilt": ("leverage distribution", "accounts changed leverage by {:+.0f} %", lambda x: 100 * math.expm1(x)),
    "over_20x": ("leverage above 20", "{:.0f} % of the notional is levered above 20×", lambda x: 100 * x),
    "margin_used_now": ("margin used", "maintenance takes {:.0f} % of equity", lambda x: 100 * x),
    "at_risk": ("at-risk notional", "{:.0f} % of positions would be forced within 2 %", lambda x: 100 * x),
    "overdue_share": ("short of margin", "{:.1f} % of positions are short of margin", lambda x: 100 * x),
    "collateral_other": ("collateral", "{:.0f} % of the collateral falls with the market", lambda x: 100 * x),
    "peg_sensitivity": ("peg sensitivity", "stablecoins are {:,.1f} times the margin left", math.expm1),
    "largest_account": ("largest account", "largest account holds {:.0f} %", lambda x: 100 * x),
    "accounts_effective_log": ("concentration", "as concentrated as {:,.0f} equal accounts", math.exp),
    "top_long_side": ("largest accounts", "side of the ten largest accounts {:+.2f} (+1: long)", float),
    "top_side_change": ("largest accounts turn", "the ten largest accounts turned by {:+.2f}", float),
    "liq_over_volume": ("liquidations over volume", "liquidations {:.1f} % of trading", lambda x: 100 * math.expm1(x)),
    "basis_bps": ("perp away from spot", ("perp {:,.0f} bps above spot", "perp {:,.0f} bps below spot"), float),
    "basis_score": ("basis", "basis {:+,.1f} sd from the usual", float),
    "basis_trend": ("basis", "basis moved {:+,.0f} bps in an hour", float),
    "basis_apart_bps": ("perp away from other venues", "basis {:+,.0f} bps against other venues", float),
    "basis_dispersion_bps": ("venues apart", "venues' bases lie {:,.0f} bps apart", float),
    "funding_annual": ("funding", "funding {:+,.1f} % a year", lambda x: 100 * x),
    "funding_change": ("funding", "funding changed by {:+,.1f} % a year in 8 h", lambda x: 100 * x),
    "funding_predicted_gap": ("next funding", "premium pulls funding by {:+,.1f} % a year", lambda x: 100 * x),
    "funding_saturation": ("funding near its cap", "funding is at {:.0f} % of a usual cap", lambda x: 100 * x),
    "funding_apart": ("funding away from other venues", "funding {:+,.1f} % a year against others", lambda x: 100 * x),
    "funding_dispersion": ("venues apart", "venues' funding lies {:,.1f} % a year apart", lambda x: 100 * x),
    "carry_bleed": (
        "funding over equity",
        ("funding takes {:.2f} % a day from longs' equity", "funding takes {:.2f} % a day from shorts' equity"),
        lambda x: 100 * x,
    ),
    "vol_annual": ("volatility", "volatility {:,.0f} % a year", lambda x: 100 * x),
    "vol_ratio": ("volatility", "volatility {:,.1f} times the usual", math.exp),
    "parkinson_ratio": ("price range", "price range {:,.1f} times the usual", math.exp),
    "vol_score": ("volatility", "volatility " + AGAINST_USUAL, float),
    "vol_short_long": ("volatility", "volatility {:,.1f} times that of the hour before", math.exp),
    "vol_of_vol": ("restless volatility", "volatility varies {:,.1f}-fold within hours", math.exp),
    "vol_wick": ("wicks", "ranges say {:,.2f} times the volatility of closes", math.exp),
    "vol_one_way": ("one-way bars", "drift within bars: {:,.2f} times the volatility without it", math.exp),
    "vol_gap_share": ("gaps between bars", "{:.0f} % of the volatility lies between bars", lambda x: 100 * x),
    "jump_share": ("jumps", "{:.0f} % of the volatility is jumps", lambda x: 100 * x),
    "crowding_score": ("crowding", "crowding {:+.2f} (+1: longs)", float),
    "crowding_agreed": ("crowding", "funding, basis and volatility agree {:+.2f} (+1: longs)", float),
    "crowding_apart": ("crowding here alone", "crowding against other venues {:+.2f} (+1: longs)", float),
    "basis_heat": ("heated basis", "heated basis {:+.2f} (+1: longs)", float),
    "depth_drop": ("depth below usual", "depth is {:.0f} % of the usual", lambda x: 100 * math.exp(-x)),
    "depth_drain": ("depth draining", "depth is {:.0f} % of that before", lambda x: 100 * math.exp(-x)),
    "depth_imbalance": ("one-sided depth", "depth imbalance {:+.2f} (−1: bids thin)", float),
    "depth_norm": ("depth for this hour", "depth {:+,.1f} sd thinner than this hour usually is", float),
    "touch_norm": ("touch for this hour", "touch {:+,.1f} sd thinner than this hour usually is", float),
    "spread_norm": ("spread for this hour", "spread {:+,.1f} sd wider than this hour usually is", float),
    "depth_slope": ("slope of the book", "slope of the book {:.2f} (1: even)", float),
    "depth_curve": ("hollow book", "curve of the book {:+.2f} (+: hollow at the touch)", float),
    "spread_over_vol": ("spread over volatility", "spread {:,.1f} times the volatility of a bar", math.exp),
    "spread_score": ("spread", "spread " + AGAINST_USUAL, float),
    "gap_burst": ("gaps in the book", "book torn open in {:.0f} % of the minutes", lambda x: 100 * x),
    "quote_imbalance": ("one-sided touch", "imbalance at the touch {:+.2f} (−1: bids thin)", float),
    "volume_imbalance": ("one-sided taking", "side of the takers {:+.2f} (−1: they sell)", float),
    "slip_100k_bps": ("slippage", "100,000 USD pay {:,.0f} bps", float),
    "slip_1m_bps": ("slippage", "1,000,000 USD pay {:,.0f} bps", float),
    "slip_1m_short": ("exhausted book", "book lacks {:.0f} % of 1,000,000 USD", lambda x: 100 * x),
    "resilience": ("slow refill", "half of a dent is refilled in {:,.1f} min", float),
    "thin_share": ("thin everywhere", "{:.0f} % of the symbols are thin for this hour", lambda x: 100 * x),
    "depth_eigen": ("books as one", "one factor moves {:.0f} % of all depth", lambda x: 100 * x),
    "cliff_bps": ("cliff", "fuel outweighs the book within {:,.0f} bps (1,000: nowhere)", float),
    "touch_share": ("touch left", "{:.0f} % of the depth is at the touch", lambda x: 100 * x),
    "amihud_score": ("price moves per dollar", "price move per dollar " + AGAINST_USUAL, float),
    "range_score": ("price range per dollar", "price range per dollar " + AGAINST_USUAL, float),
    "kyle_slope": ("price impact", "price impact {:,.0f} bps per √M USD", float),
    "kyle_score": ("price impact", "price impact " + AGAINST_USUAL, float),
    "kappa_worse": ("fuel over depth", "forced flow within 2 % is {:,.2f} times the book", float),
    "kappa_side": ("side of the fuel", "fuel within 2 % leans {:+.2f} (+1: a fall burns it)", float),
    "rho": ("loop gain", "each round of forced flow makes {:,.2f} of the move before", float),
    "rho_change": ("loop gain", "loop gain changed by {:+,.2f}", float),
    "loop_amplification": ("amplification", "a move ends {:,.1f} times as large (22,026: no end)", math.exp),
    "cliff_distance_bps": ("cliff", "forced flow outweighs the book {:,.0f} bps away (10,000: nowhere)", float),
    "margin_distance_sd": ("margin", "a tenth of the notional is {:,.1f} sd of a day from liquidation", float),
    "trigger_leg_share": ("trigger legs", "{:.0f} % of the notional is triggered by this symbol", lambda x: 100 * x),
    "depeg_bps": ("lost peg", "a stablecoin trades {:,.0f} bps below a dollar", float),
    "band_mass": ("at-risk mass", "{:.1f} % of positions trip within 1 %", lambda x: 100 * x),
    "band_mass_200": ("at-risk mass", "{:.1f} % of positions trip between 2 and 5 %", lambda x: 100 * x),
    "touch_q25_log_s": ("time to trips", "a tenth trips within {:,.1f} h, 1 chance in 4", lambda x: math.exp(x) / 3600),
    "trade_gap_share": ("trades lost", "{:.1f} % of the trades are lost", lambda x: 100 * x),
    "latency_ratio": ("slow capture", "capture delay {:,.1f} times the usual", math.exp),
    "book_still_s": ("frozen book", "book has stood still for {:,.0f} s", float),
    "book_crossed": ("crossed book", "{:,.0f} crossed book rows refused", math.expm1),
    "book_frozen": ("frozen book", "{:,.0f} frozen book rows refused", math.expm1),
    "feed_stale": ("stale feed", "oldest feed is {:,.0f} s old", float),
    "rows_refused": ("refused rows", "{:,.0f} rows refused", math.expm1),
    "book_gaps": ("lost book messages", "{:,.0f} losses of book messages", math.expm1),
    "quote_age": ("stale quotes", "best bid and ask are {:,.0f} s old", float),
    "structure_age_min": ("old positions", "positions are {:,.0f} min old", float),
    "hour_sin": ("time of day", "time of day, {:+.2f} (+1: 06:00 UTC, −1: 18:00)", float),
    "hour_cos": ("time of day", "time of day, {:+.2f} (+1: midnight UTC, −1: noon)", float),
    "weekend": ("weekend", "weekend {:.0f} (1: banks are closed)", float),
    "funding_due_min": ("funding due", "funding is due in {:,.0f} min", float),
    "shock_decay": ("recent shock", "freshness of the last shock {:.2f} (1: now, 0.37: an hour ago)", float),
    "liq_decay": ("recent liquidations", "freshness of liquidations {:.2f} (1: now, 0.37: an hour ago)", float),
    "drift_depth": _drifted("depth"),
    "drift_touch": _drifted("depth at the touch"),
    "drift_spread": _drifted("spread"),
    "drift_volume": _drifted("volume"),
    "drift_cancels": _drifted("cancels"),
    "drift_range": _drifted("price range"),
    "drift_basis": _drifted("basis"),
    "drift_funding": _drifted("funding"),
    "drift_count": ("measures drifted", "{:.0f} of 8 measures are not as usual at this hour", float),
    "drift_share": ("measures drifted", "{:.0f} % of the measures are not as usual at this hour", lambda x: 100 * x),
}  # fmt: skip

RULES = {
    "price_band": "price band, 5 min",
    "price_band_hour": "price band, hour",
    "price_halt": "price halt",
    "mark_index_divergence": "mark away from index",
    "depth_collapse": "depth collapse",
    "stale_feed": "stale feed",
    "price_band_sigma": "price band, sigmas",
    "liquidation_rate": "liquidations over depth",
    "oi_drop": "open interest drop",
    "book_fault": "book at fault",
    "loop_gain": "loop gain",
    "outage": "outage",
    "collateral_depeg": "collateral off its peg",
    "fund_drawdown": "insurance fund drawdown",
    "venue_wide": "venue-wide",
    "associated": "follows its lead",
    "leverage_cap": "leverage cap",
    "exposure_cap": "exposure cap",
    "open_interest_cap": "open interest cap",
    "venue_cap": "venue cap",
    "account_ceiling": "account ceiling",
    "cluster_cap": "cluster cap",
    "collateral_cap": "collateral cap",
    "none": "none",
}
ACTIONS = {"normal": "normal", "cautious": "cautious", "reduce_only": "reduce only", "halted": "halted"}
KINDS = {  # state after the change -> what kind of news that is
    "open": "observed breach",
    "half_open": "on probation",
    "missing": "input missing",
    "tight": "cap below full",
    "closed": "cleared",
    "clear": "cleared",
    "off": "not published here",
}
REFUSALS = {
    "crossed_book": "crossed (bid at or above ask)",
    "frozen_book": "frozen (a side stood still to the last digit)",
    "one_sided_book": "one-sided (a side of the book is empty)",
    "non_monotone_depth": "depth that shrinks with distance",
    "duplicate_key": "duplicates of another row",
    "unknown_symbol": "of an unknown symbol",
}
PROPOSALS = {  # who put the cap in force below the hard one
    "taken": "by alert",
    "bounded": "by alert, bounded",
}

_PART = re.compile(r"(?P<family>\w+) (?P<strength>[+-]?\d+(?:\.\d+)?)(?: \((?P<evidence>[^()]*)\))?")
_WINDOW = re.compile(r"_(?:\d+|now|s)$")


def whole(count: float | None) -> str:
    """
    >>> whole(9690), whole(None)
    ('9,690', '–')
    """
    return NOTHING if count is None else f"{count:,.0f}"


def decimal(value: float | None, digits: int = 1) -> str:
    """
    >>> decimal(8.0419), decimal(None)
    ('8.0', '–')
    """
    return NOTHING if value is None else f"{value:,.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """
    >>> percent(0.034), percent(0.0004), percent(None)
    ('3 %', '<1 %', '–')
    """
    if share is None:
        return NOTHING
    return f"<{10**-digits:g} %" if 0 < share * 100 < 10**-digits / 2 else f"{share * 100:,.{digits}f} %"


def times(ratio: float | None) -> str:
    """
    >>> times(2.0), times(1.7117), times(None)
    ('2×', '1.7×', '–')
    """
    return NOTHING if ratio is None else f"{round(ratio, 1):g}×"


def moment(ts: datetime | None, *, seconds: bool = False) -> str:
    """
    >>> moment(datetime(2025, 10, 10, 21, 12, tzinfo=UTC)), moment(datetime(2025, 10, 10, tzinfo=UTC), seconds=True)
    ('2025-10-10 21:12Z', '2025-10-10 00:00:00Z')
    """
    if ts is None:
        return NOTHING
    return ts.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ" if seconds else "%Y-%m-%d %H:%MZ")


def until(start: datetime, end: datetime, *, seconds: bool = False) -> str:
    """The end of a span, without the date where it is that of the start.

    >>> until(datetime(2025, 10, 10, 15, tzinfo=UTC), datetime(2025, 10, 10, 23, 59, tzinfo=UTC))
    '23:59Z'
    """
    said = moment(end, seconds=seconds)
    return said.split(" ")[1] if start.astimezone(UTC).date() == end.astimezone(UTC).date() else said


def duration(seconds: float | None) -> str:
    """
    >>> [duration(s) for s in (7.0, 507.0, 3562.0, 40_000.0, None)]
    ['7 s', '8 min 27 s', '59 min', '11 h 6 min', '–']
    """
    if seconds is None:
        return NOTHING
    whole_s = round(seconds)
    if whole_s < 60:
        return f"{whole_s} s"
    minutes, rest = divmod(whole_s, 60)
    if minutes < 10 and rest:
        return f"{minutes} min {rest} s"
    hours, left = divmod(minutes, 60)
    return f"{minutes} min" if not hours else f"{hours} h {left} min"


def amount(value: float | None, unit: str) -> str:
    """A number of a decision with its unit.

    >>> amount(0.0512, "share"), amount(303.6, "s"), amount(2.0, "x"), amount(10000.0, "USD"), amount(None, "s")
    ('5.1 %', '304 s', '2×', '10,000 USD', '–')
    """
    if value is None:
        return NOTHING
    said = {"share": percent(value, 1), "s": f"{value:,.0f} s", "USD": f"{value:,.0f} USD", "x": times(value)}
    return said.get(unit, f"{value:,.4g} {unit}")


def limit(value: float | None, unit: str) -> str:
    """A limit of a decision: what it allows.

    >>> limit(0.0, "x of new positions"), limit(2.0, "x of new positions"), limit(5.0, "x"), limit(None, "x")
    ('no new positions', 'new up to 2×', '5×', 'no limit')
    """
    if value is None:
        return "no limit"
    if unit != "x of new positions":
        return amount(value, unit)
    return f"new up to {times(value)}" if value > 0 else "no new positions"


def joined(names: Iterable[str], most: int = 4) -> str:
    """
    >>> joined(["A"]), joined(["A", "B"]), joined(["A", "B", "C", "D", "E"], most=3)
    ('A', 'A and B', 'A, B, C and 2 more')
    """
    every = list(names)
    if len(every) > most:
        return f"{', '.join(every[:most])} and {len(every) - most} more"
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} and {every[-1]}" if every else "none"


def plural(count: int, word: str, many: str | None = None) -> str:
    """
    >>> plural(1, "symbol"), plural(1200, "symbol"), plural(2, "entry", "entries")
    ('1 symbol', '1,200 symbols', '2 entries')
    """
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def spaced(name: str, known: dict[str, str]) -> str:
    """The words of a machine word, else the word itself without underscores.

    >>> spaced("price_halt", RULES), spaced("new_rule", RULES)
    ('price halt', 'new rule')
    """
    return known.get(name, name.replace("_", " "))


def feature(text: str) -> str:
    """One piece of evidence, `name = value` or `name`, in words; what is not known stays as it is.

    >>> feature("basis_bps_5 = -89.1"), feature("book_crossed_5"), feature("latency_ratio_5 = 1.17")
    ('perp 89 bps below spot', 'crossed book', 'capture delay 3.2 times the usual')
    >>> feature("fuel_over_depth = 1.5"), feature("fuel_over_depth_100 = 1.5")
    ('forced flow of a 5 % move is 1.50 times the book', 'forced flow of a 1 % move is 1.50 times the book')
    >>> feature("new_thing_5 = 1")
    'new thing 5 = 1'
    """
    name, _, value = text.partition(" = ")
    known = FEATURES.get(name) or FEATURES.get(_WINDOW.sub("", name))
    if known is None:
        return text.replace("_", " ")
    about, said, convert = known
    if not value:
        return about
    try:
        number = convert(float(value))
    except (ValueError, OverflowError):
        return f"{about} = {value}"
    return said.format(number) if isinstance(said, str) else said[number < 0].format(abs(number))


def _parts(text: str, source: str) -> list[dict[str, Any]]:
    text, _, like = text.partition("; most like ")
    found = [
        {
            "source": source,
            "family": spaced(part["family"], FAMILIES),
            "strength": part["strength"],
            "text": feature(part["evidence"]) if part["evidence"] else "",
        }
        for part in _PART.finditer(text)
    ]
    ending = {"source": source, "family": "", "strength": "", "text": f"most like {like}"}
    whole = [{"source": source, "family": "", "strength": "", "text": text}]
    return [*(found or whole), *([ending] if like else [])]


def reasons(text: str | None) -> list[dict[str, Any]]:
    """The reasons of a score as rows of `source, family, strength, text`; a text of another form stays whole.

    >>> reasons("crowding 11.2 (basis_bps_5 = -89.1), thin_book 4.0 | model: leverage +1.2")[0]["text"]
    'perp 89 bps below spot'
    >>> [(r["source"], r["family"]) for r in reasons("crowding 11.2 | model: leverage +1.2, thin_book +0.3")]
    [('detector', 'crowding'), ('model', 'leverage'), ('model', 'thin book')]
    >>> [(r["family"], r["text"]) for r in reasons("crowding +1.2; most like BTC-PERP of 2025-01-03 18:22Z")]
    [('crowding', ''), ('', 'most like BTC-PERP of 2025-01-03 18:22Z')]
    """
    if not text:
        return []
    rows: list[dict[str, Any]] = []
    for part in text.split(" | "):
        source = "model" if part.startswith("model: ") else "detector"
        rows += _parts(part.removeprefix("model: "), source)
    return rows


def missing(fault: str) -> str:
    """The input that a guardrail misses, under the name that scores use for its table; other faults as they are.

    >>> missing("depth missing"), missing("price missing"), missing("depth stale")
    ('book depth', 'trades', 'depth stale')
    """
    name = fault.removesuffix(" missing")
    return fault if name == fault else {"depth": "book depth", "price": "trades"}.get(name, name)


def without_clearing(reason: str | None) -> str:
    """A guardrail's sentence without its last clause, which the page says apart.

    >>> without_clearing("price moved -7.2 %; band is 5.0 %; clears after 10 min within 2.5 %")
    'price moved -7.2 %; band is 5.0 %'
    """
    clauses = (reason or "").split("; ")
    return "; ".join(clause for clause in clauses if not clause.startswith("clears after")) or NOTHING
