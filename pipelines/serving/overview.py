"""The overview: what every symbol scores, what is allowed there, why; sorted and filtered as the reader asks."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from guardrails.ladder import ACTIONS
from models.periods import HORIZONS_MIN
from models.warning import ALERT_HORIZON_MIN
from pipelines.reporting import words
from pipelines.reporting.risk import risk_rows
from pipelines.reporting.verdict import guardrail_sentence, headline, risk_sentence
from pipelines.serving.standing import KEY, Standing

HORIZONS = tuple(f"p_{minutes}m" for minutes in HORIZONS_MIN)
MORE = (*KEY, *(name for name in (*HORIZONS, "p_60m_low", "p_60m_high") if name not in {"p_15m", "p_60m"}))
SHOWN = {
    "all": "all symbols",
    "risk": "at risk",
    "alert": "in alert",
    "held": "held back",
    "faults": "with data faults",
}
Order = Callable[[Mapping[str, Any]], Any]


def _known(name: str, sign: int = -1) -> Order:
    """Largest first (`sign` -1), what is not known last."""
    return lambda row: (row[name] is None, sign * (row[name] or 0.0))


ORDERS: dict[str, tuple[str, Order]] = {  # by name: the words of the heading, and what comes first
    "risk": ("risk", lambda row: row["place"]),
    "symbol": ("symbol", lambda row: (row["symbol"], row["venue"])),
    "anomaly": ("anomaly", _known("ratio")),
    "probability": ("probability", _known("p_60m_value")),
    "action": ("guardrail", _known("severity")),
    "leverage": ("leverage cap", _known("leverage_value", 1)),
    "exposure": ("exposure cap", _known("exposure_value", 1)),
    "faults": ("data faults", lambda row: -len(row["faults"])),
}


@dataclass(frozen=True)
class Chosen:
    """What the reader asked for."""

    text: str = ""
    venue: str = ""
    show: str = "all"
    sort: str = "risk"
    turned: bool = False  # the other way round


def mark_of(venue: str, symbol: str) -> str:
    """A name for an element of the page, whatever the symbol is called."""
    return hashlib.sha256(f"{venue}\0{symbol}".encode()).hexdigest()[:12]


def overview_rows(standing: Standing) -> list[dict[str, Any]]:
    """One row per venue and symbol, as the report's "At risk now", with what the desk needs beside it."""
    states = standing.states
    more = standing.last_scores.select(MORE)
    limits = standing.last_limits.select(*KEY, "exposure_cap_usd_effective", "blocked", "blocked_why")
    wide = states.join(more, on=KEY, how="left", maintain_order="left")
    wide = wide.join(limits, on=KEY, how="left", maintain_order="left")
    said = risk_rows(states)
    return [
        row | _more(found) | {"place": place}
        for place, (row, found) in enumerate(zip(said, wide.to_dicts(), strict=True))
    ]


def _more(found: Mapping[str, Any]) -> dict[str, Any]:
    faults = [words.missing(name) for name in (found["missing"] or "").split(", ") if name]
    binding = found["binding"]
    row = {
        "mark": mark_of(found["venue"], found["symbol"]),
        "ratio": found["ratio"],
        "severity": found["severity"],
        "alert": bool(found["alert"]),
        "p_60m_value": found["p_60m"],
        "leverage_value": found["leverage_cap_effective"] or found["leverage_cap_hard"],
        "exposure_value": found["exposure_cap_usd_effective"] or found["exposure_cap_usd"],
        "horizons": [_within(minutes, found) for minutes in HORIZONS_MIN],
        "chance": words.percent(found["p_60m"], 1),
        "others": [_within(minutes, found) for minutes in HORIZONS_MIN if minutes != ALERT_HORIZON_MIN],
        "band": _band(found),
        "exposure_effective": _tightened(found),
        "binding": "" if binding in (None, "none") else words.spaced(binding, words.RULES),
        "faults": list(dict.fromkeys(faults)),
        "blocked": found["blocked"] or "",
        "blocked_why": found["blocked_why"] or "",
    }
    return row | {"haystack": _haystack(found, row)}


def _within(minutes: int, found: Mapping[str, Any]) -> dict[str, str]:
    name = f"{minutes}m" if minutes < 120 else f"{minutes // 60}h"
    return {"name": name, "said": words.percent(found[f"p_{minutes}m"], 1)}


def _band(found: Mapping[str, Any]) -> str:
    low, high = found["p_60m_low"], found["p_60m_high"]
    return "" if low is None or high is None else f"{100 * low:.1f} to {words.percent(high, 1)}"


def _tightened(found: Mapping[str, Any]) -> str:
    hard, effective = found["exposure_cap_usd"], found["exposure_cap_usd_effective"]
    return words.whole(effective) if hard is not None and effective is not None and effective < hard else ""


def _haystack(found: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """What the filter looks in: names, action, binding rule, leading family, faults."""
    action = words.spaced(found["action"] or "", words.ACTIONS)
    lead = words.spaced(found["lead_family"] or "", words.FAMILIES)
    parts = (found["symbol"], found["venue"], action, row["binding"], lead, *row["faults"])
    return " ".join(parts).lower()


def chosen_rows(rows: Sequence[Mapping[str, Any]], chosen: Chosen) -> list[Mapping[str, Any]]:
    """The symbols asked for, in the order asked for; venues as a whole are told apart (`venue_rows`)."""
    wanted = chosen.text.lower().split()
    kept = [
        row
        for row in rows
        if not row["whole_venue"]
        and chosen.venue in ("", row["venue"])
        and _shows(row, chosen.show)
        and all(word in row["haystack"] for word in wanted)
    ]
    return sorted(kept, key=ORDERS[chosen.sort][1], reverse=chosen.turned)


def _shows(row: Mapping[str, Any], show: str) -> bool:
    shows: dict[str, bool] = {
        "all": True, "risk": row["at_risk"], "alert": row["alert"], "held": bool(row["severity"]),
        "faults": bool(row["faults"]) or bool(row["blocked"]),
    }  # fmt: skip
    return shows[show]


def venue_rows(rows: Sequence[Mapping[str, Any]], venue: str) -> list[Mapping[str, Any]]:
    """What every venue says as a whole, of `venue` alone where one is chosen."""
    return [row for row in rows if row["whole_venue"] and venue in ("", row["venue"])]


def verdict(standing: Standing) -> dict[str, Any]:
    """The report's headline and sentences at the newest minute, and a row of figures."""
    states = standing.states
    newest = max([*standing.scored.values(), *standing.guarded.values()], default=None)
    scored, guarded = not standing.last_scores.is_empty(), not standing.last_limits.is_empty()
    symbols = states.filter(~pl.col("whole_venue"))
    at_risk = bool(symbols["at_risk"].any())
    return {
        "headline": headline(states, words.moment(newest), scored=scored, guarded=guarded),
        "sentences": [risk_sentence(states), guardrail_sentence(states)],
        "tone": "danger" if at_risk else "calm" if scored and guarded else "unknown",
        "tiles": _tiles(symbols, standing, scored=scored, guarded=guarded),
    }


def _tiles(symbols: pl.DataFrame, standing: Standing, *, scored: bool, guarded: bool) -> list[dict[str, str]]:
    at_risk = int(symbols["at_risk"].sum())
    opened = int((standing.state["state"] == "open").sum())
    trial = int((standing.state["state"] == "half_open").sum())
    strict = symbols["severity"].max()
    action = "" if strict is None else ACTIONS[int(strict)]  # type: ignore[arg-type]  # whole numbers
    on = int((symbols["severity"] == strict).sum()) if strict is not None else 0
    missing = int((symbols["binding_state"] == "missing").sum())
    alerts = int(symbols["alert"].fill_null(value=False).sum())
    texts = [
        (f"{at_risk:,}", "symbols at risk", f"of {symbols.height:,}", "risk" if at_risk else "calm"),
        (f"{alerts:,}" if scored else words.NOTHING, "alerts this minute", "" if scored else "not scored", ""),
        (words.spaced(action, words.ACTIONS) or words.NOTHING, "strictest guardrail",
         f"on {words.plural(on, 'symbol')}" if guarded else "not guarded", action),
        (f"{opened:,}" if guarded else words.NOTHING, "breakers open",
         f"{trial:,} on probation" if guarded else "not guarded", ""),
        (f"{missing:,}" if guarded else words.NOTHING, "held by missing data",
         "symbols, no breach observed" if guarded else "not guarded", ""),
    ]  # fmt: skip
    return [dict(zip(("value", "label", "note", "tone"), text, strict=True)) for text in texts]


def table(standing: Standing, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """The numbers behind `rows`, in their order, for export."""
    keys = {name: [row[name] for row in rows] for name in (*KEY, "at_risk")}
    schema = {"venue": pl.String, "symbol": pl.String, "at_risk": pl.Boolean}
    scores = standing.last_scores.drop("available_at", "detector_uri", "model_uri").rename({"ts": "scored_at"})
    limits = standing.last_limits.drop("reasons", "policy_sha256").rename({"ts": "limited_at"})
    wide = pl.DataFrame(keys, schema=schema).join(scores, on=KEY, how="left", maintain_order="left")
    return wide.join(limits, on=KEY, how="left", maintain_order="left", suffix="_limit")
