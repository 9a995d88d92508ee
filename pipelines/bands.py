"""Step `bands`: one position under several venue profiles, side by side, and why they liquidate it at different prices.

Reads profiles only, never the lake; with a file named it writes one self-contained page with plots.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from features.mechanics.bands import Band, Position, Scenario, band
from features.mechanics.profile import Profile
from features.mechanics.why import Why, explain
from pipelines.errors import InputError
from pipelines.pages import write_page
from pipelines.profiles import load_profile, shipped_names
from pipelines.reporting.bands_page import duration, render


@dataclass(frozen=True)
class BandsSummary:
    """`profiles`: one band per venue; `why`: every venue against the first."""

    symbol: str
    side: str
    qty: float
    entry_price: float
    mark_price: float
    margin_usd: float
    other_maintenance_usd: float
    scenario: dict[str, float | None]
    profiles: list[dict[str, Any]]
    why: list[dict[str, Any]]
    report: str | None

    def sentence(self) -> str:
        head = (
            f"{self.side} {abs(self.qty):g} {self.symbol} at {self.entry_price:,g}, mark {self.mark_price:,g}, "
            f"margin {self.margin_usd:,.2f} USD"
        )
        names = ("liquidation", "market", "exit", "bankruptcy", "half touched in", "closed in")
        lines = [head, f"  {'profile':<14}" + "".join(f"{name:>17}" for name in names)]
        lines += [_line(row) for row in self.profiles]
        lines += [f"  {row['sentence']}" for row in self.why]
        return "\n".join([*lines, *([f"  page: {self.report}"] if self.report else [])])


def position_of(
    symbol: str,
    side: str,
    *,
    entry: float,
    qty: float | None = None,
    notional: float | None = None,
    leverage: float | None = None,
    margin: float | None = None,
    mark: float | None = None,
    other_maintenance: float = 0.0,
) -> Position:
    """A position from what a person says: size as `qty` or `notional` (USD at entry), margin as such or by `leverage`.

    Raises InputError where size or margin is said twice or not at all, and lists every bad number at once.

    >>> position_of("BTC", "short", entry=100.0, notional=1_000.0, leverage=5.0).qty
    -10.0
    """
    if side not in {"long", "short"}:
        raise InputError(f"side must be long or short, was {side!r}")
    if (qty is None) == (notional is None):
        raise InputError("the size of the position is needed once", mend="give either --qty or --notional")
    if (leverage is None) == (margin is None):
        raise InputError("the margin of the position is needed once", mend="give either --leverage or --margin")
    for name, value in {"entry": entry, "qty": qty, "notional": notional, "leverage": leverage}.items():
        if value is not None and not value > 0:
            raise InputError(f"--{name} must be positive, was {value:g}", mend="the direction is said with --side")
    size = qty if qty is not None else (notional or 0.0) / entry
    paid = margin if margin is not None else size * entry / (leverage or 1.0)
    try:
        signed = size if side == "long" else -size
        return Position(symbol, signed, entry, paid, entry if mark is None else mark, other_maintenance)
    except ValueError as error:
        raise InputError(f"bad position: {error}") from None


def scenario_of(*, sigma_year: float, fall_pct_per_min: float, local_share: float, depth_usd: float | None) -> Scenario:
    """What the market does; without depth there is no slippage. Raises InputError that lists every bad number."""
    try:
        return Scenario(sigma_year, fall_pct_per_min / 100, local_share, *([] if depth_usd is None else [depth_usd]))
    except ValueError as error:
        raise InputError(f"bad scenario: {error}") from None


def compare_bands(
    position: Position,
    scenario: Scenario,
    names: Sequence[str] = (),
    *,
    on: datetime | None = None,
    out: Path | None = None,
) -> BandsSummary:
    """Bands of `position` under the profiles `names` (default: all that are shipped) as in force at `on` (newest).

    With `out` the page is written there. Raises InputError for a bad profile, or one without tiers for the symbol.
    """
    profiles = [load_profile(name, on) for name in names or shipped_names()]
    repeated = len({profile.name for profile in profiles}) < len(profiles)
    if repeated:
        raise InputError("profiles must have different names", where=", ".join(profile.name for profile in profiles))

    bands = [_band(position, profile, scenario) for profile in profiles]
    reasons = [explain(position, profile, profiles[0], scenario) for profile in profiles[1:]]

    summary = _summary(position, scenario, bands, reasons, out)
    if out is not None:
        write_page(out, render(summary.__dict__))
    return summary


def _band(position: Position, profile: Profile, scenario: Scenario) -> Band:
    try:
        return band(position, profile, scenario)
    except KeyError:
        mend = 'add tiers for it, or for "*"'
        raise InputError(f"profile {profile.name} has no tiers for {position.symbol}", mend=mend) from None
    except ValueError as error:
        raise InputError(f"profile {profile.name} cannot play this position ({error})") from None


def _summary(
    position: Position, scenario: Scenario, bands: list[Band], reasons: list[Why], out: Path | None
) -> BandsSummary:
    told: dict[str, float | None] = asdict(scenario)
    told["depth_usd"] = scenario.depth_usd if scenario.depth_usd < float("inf") else None
    return BandsSummary(
        symbol=position.symbol,
        side="long" if position.qty > 0 else "short",
        qty=position.qty,
        entry_price=position.entry_price,
        mark_price=position.mark_price,
        margin_usd=position.margin_usd,
        other_maintenance_usd=position.other_maintenance_usd,
        scenario=told,
        profiles=[asdict(one) | {"effective_from": one.effective_from.isoformat()} for one in bands],
        why=[reason._asdict() for reason in reasons],
        report=None if out is None else str(out),
    )


def _line(row: dict[str, Any]) -> str:
    if row["liquidation_price"] is None:
        return f"  {row['profile']:<14} no move can liquidate it"
    prices = (row["liquidation_price"], row["market_price"], row["exit_price"], row["bankruptcy_price"])
    times = (row["time_to_touch_s"]["q50"], row["completion_s"])
    said = "".join(f"{price:>17,.2f}" for price in prices) + "".join(f"{duration(time):>17}" for time in times)
    return f"  {row['profile']:<14}{said}" + ("  liquidatable now" if row["breached"] else "")
