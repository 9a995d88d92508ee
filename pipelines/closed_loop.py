"""The closed loop: simulated days with and without guardrails, of the same seeds, and without one rule at a time.

    minutes of the venue -> rows known by now -> bars -> guardrails -> limits -> what the venue allows next -> minutes

Every arm sees the same exogenous dice and starts from the same venue: for the first `WARM_MIN` minutes nobody is
controlled, so that every window of the rules is full when they begin to count. The guard sees what a feed would have
told it by then, and nothing of the simulator beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from features.bars import LOOKBACK_S, Market, Sources, bar_end, bars_of
from guardrails.associated import ASSOCIATED
from guardrails.decide import RULES, Decided, decide, empty_state
from guardrails.ladder import ACTIONS
from guardrails.policy import FALLING, LOOKBACK_MIN, Policy
from guardrails.proposal import SCHEMA as PROPOSALS
from guardrails.proposal import bounded
from models.simulator import Controls, Stretch, VenueSettings, each_seed, instruments, simulate_controlled
from models.simulator.controls import free
from pipelines.guard import TIER_COLUMNS, priced_collateral, wishes

Score: TypeAlias = Callable[[pl.DataFrame], pl.DataFrame]  # bars -> the columns of scores that `wishes` reads
Numbers: TypeAlias = dict[str, float]

START = datetime(2025, 1, 1, tzinfo=UTC)
WARM_MIN = 240  # as long as the longest window of the shipped policy
EVERY_MIN = 5  # between two runs of the guard
STREAM, SERIES = "trades", ("book_depth", "liquidations", "marks", "funding", "open_interest")
HELD = ("positions", "collateral")  # what rules read beside bars
HELD_S = 3 * 86_400  # how far back: the window of the fund and the age of collateral
NONE, GUARDED, MODEL = "none", "guardrails", "model + guardrails"
WITHOUT = "without "
DRAWN = (NONE, GUARDED)  # of these the minutes are kept
THROTTLE = "throttle"
LOOSEST_THROTTLE_USD = 10**12
LOOSEST_ENTER, LOOSEST_FALLING_ENTER = 1e6, 1e-6  # the ends of what a policy may say
LOOSEST_CAPS: dict[str, dict[str, Any]] = {
    "leverage_cap": {
        "sigmas_covered": 1.0, "depth_ratio_full": 0.01, "oi_per_depth_lower": 999_999.0, "oi_per_depth_upper": 1e6,
        "leverage_untiered_max": 200.0,
    },
    "exposure_cap": {
        "exposure_ceiling_usd": 10**12, "exposure_floor_usd": 10**12, "account_ceiling_usd": 10**12,
        "exposure_depth_share": 10.0, "exposure_oi_share": 1.0,
    },
}  # fmt: skip
FAST_MIN, SLOW_MIN, VOLATILE = 15, 240, 2.0  # of `volatility_score`: windows, and the ratio from which it alerts


@dataclass(frozen=True)
class Arm:
    """Who steers: nobody where there is no policy; `removed` is the rule that the policy lacks."""

    name: str
    policy: Policy | None = None
    score: Score | None = None
    removed: str | None = None


@dataclass(frozen=True)
class Setting:
    """What all arms of all seeds have in common."""

    venue: VenueSettings
    hours: int  # after the first `WARM_MIN` minutes
    start: datetime = START
    every_min: int = EVERY_MIN

    @property
    def opens(self) -> datetime:
        """From then on controls hold and everything counts."""
        return self.start + timedelta(minutes=WARM_MIN)


@dataclass(frozen=True)
class ArmRun:
    """What one arm did to one seed: `numbers` by the names of `MEASURES`, `minutes` to draw it."""

    arm: str
    seed: int
    numbers: Numbers
    minutes: pl.DataFrame  # of `minutes_of`; no rows where they are not kept


def without(policy: Policy, rule: str) -> Policy:
    """`policy` with `rule` as loose as a policy may be: a breaker that never opens, a cap that hardly binds.

    What a rule does about missing inputs stays. Raises ValueError for a rule that cannot be taken out this way.
    """
    sha256 = f"{policy.sha256} without {rule}"
    if rule in policy.breakers:
        enter = LOOSEST_FALLING_ENTER if rule in FALLING else LOOSEST_ENTER
        looser = {**policy.breakers, rule: replace(policy.breakers[rule], enter=enter)}
        return replace(policy, breakers=looser, sha256=sha256)
    if rule == ASSOCIATED:
        return replace(policy, associated=replace(policy.associated, leads={}), sha256=sha256)
    if rule == THROTTLE:
        return replace(policy, throttle=replace(policy.throttle, min_usd=LOOSEST_THROTTLE_USD), sha256=sha256)
    if rule in LOOSEST_CAPS:
        return replace(policy, caps=replace(policy.caps, **LOOSEST_CAPS[rule]), sha256=sha256)
    raise ValueError(f"`rule` must be one of {', '.join(removable(policy))}, was {rule}")


def removable(policy: Policy) -> tuple[str, ...]:
    """The rules that `without` can take out, in the order of the rules; one that follows no lead is none."""
    told = {*policy.breakers, *LOOSEST_CAPS, THROTTLE} | ({ASSOCIATED} if policy.associated.leads else set())
    return tuple(rule for rule in (*RULES, THROTTLE) if rule in told)


def _always_binds(rule: str) -> bool:
    """Whether a rule works without opening: a cap, or the throttle."""
    return rule in LOOSEST_CAPS or rule == THROTTLE


def arms_of(policy: Policy, score: Score | None) -> tuple[Arm, ...]:
    """Nobody, the rules, the rules and a model, and the rules without each one of them."""
    modelled = () if score is None else (Arm(MODEL, policy, score),)
    lacking = (Arm(WITHOUT + rule, without(policy, rule), removed=rule) for rule in removable(policy))
    return (Arm(NONE), Arm(GUARDED, policy), *modelled, *lacking)


def volatility_score(bars: pl.DataFrame) -> pl.DataFrame:
    """A plain causal score that stands in for a model: has volatility doubled?

        r       = log(close / close of the minute before)
        anomaly = rms(r in (t - 15 min, t]) / rms(r in (t - 255 min, t - 15 min])        alert where it is at least 2

    Null, and no alert, until half of the longer window holds returns, and where it holds none but zeros.
    """
    square = (pl.col("close") / pl.col("close").shift(1)).log() ** 2
    slow = pl.col("square").shift(FAST_MIN).rolling_mean(SLOW_MIN, min_samples=SLOW_MIN // 2)
    ratio = (pl.col("square").rolling_mean(FAST_MIN) / pl.when(slow > 0).then(slow)).sqrt()
    scored = bars.sort("symbol", "ts").with_columns(square=square.over("symbol"))
    return scored.with_columns(anomaly=ratio.over("symbol")).select(
        "venue",
        "symbol",
        "ts",
        "anomaly",
        available_at="ts",
        anomaly_threshold=pl.lit(VOLATILE),
        alert=(pl.col("anomaly") >= VOLATILE).fill_null(False),
    )


# --- the guard at the simulated venue ---


@dataclass
class Guard:
    """The guard of one run: called with the rows of the last minutes, it says what holds in the next.

    A person resets whatever only a person may, in the first minute in which that counts.
    """

    setting: Setting
    policy: Policy
    score: Score | None = None
    rows: dict[str, pl.DataFrame] = field(default_factory=dict)
    bars: pl.DataFrame | None = None
    judged: datetime | None = None  # the last minute that has limits
    state: pl.DataFrame = field(default_factory=empty_state)
    proposals: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PROPOSALS))
    decisions: int = 0
    opened: set[str] = field(default_factory=set)  # rules that have tripped
    tightened: int = 0  # minutes x symbols in which a wish had an effect

    def __post_init__(self) -> None:
        listed = instruments(self.setting.venue, self.setting.start).select("symbol", "tiers").explode("tiers")
        fields = (pl.col("tiers").struct.field(name) for name in TIER_COLUMNS)
        self.tiers = listed.drop_nulls().select("symbol", *fields)

    def __call__(self, tables: dict[str, pl.DataFrame], now: datetime) -> Controls:
        since = self.judged or self.setting.start
        self.rows = _kept(self.rows, tables, since)
        symbols = self.setting.venue.symbols
        if now < self.setting.opens:
            return free(len(symbols))
        fresh = bars_known(self.rows, self.setting, since, now)
        self.bars = fresh if self.bars is None else pl.concat([self.bars, fresh])
        self.bars = self.bars.filter(pl.col("ts") > since - timedelta(minutes=LOOKBACK_MIN))
        decided = decide(
            self.bars,
            self.policy,
            **self._held(now),
            tiers=self.tiers,
            resets=self._resets(since, now),
            state=self.state,
            since=since,
        )
        limits = self._with_wishes(decided.limits, now)
        self._remember(decided, limits, now)
        return controls_of(limits, symbols)

    def _held(self, now: datetime) -> dict[str, pl.DataFrame]:
        """Positions and collateral that are known at `now`; tokens of a stablecoin by the marks of their market."""
        known = {name: self.rows[name].filter(pl.col("known_at") <= now) for name in (*HELD, "marks")}
        listed = instruments(self.setting.venue, self.setting.start).lazy()
        collateral = priced_collateral(known["collateral"], known["marks"].lazy(), listed)
        return {"positions": known["positions"], "collateral": collateral}

    def _resets(self, since: datetime, now: datetime) -> pl.DataFrame:
        minutes = pl.datetime_range(since, now, "1m", closed="right", time_unit="us", eager=True).alias("ts")
        rules = [name for name, rule in self.policy.breakers.items() if rule.reset == "person"]
        named = pl.DataFrame({"rule": rules}, schema={"rule": pl.String}).with_columns(symbol=pl.lit("*"))
        return named.join(minutes.to_frame(), how="cross").with_columns(by=pl.lit("duty"))

    def _with_wishes(self, limits: pl.DataFrame, now: datetime) -> pl.DataFrame:
        if self.score is not None and self.bars is not None:
            ttl_min = self.policy.proposal.ttl_min
            made = wishes(self.score(self.bars), limits, ttl_min)
            self.proposals = pl.concat([self.proposals, made.select(self.proposals.columns)], how="vertical_relaxed")
            self.proposals = self.proposals.filter(pl.col("proposed_at") > now - timedelta(minutes=2 * ttl_min))
        return bounded(limits, self.proposals, self.policy)

    def _remember(self, decided: Decided, limits: pl.DataFrame, now: datetime) -> None:
        late = decided.decisions.filter(pl.col("ts") >= self.setting.opens)
        self.decisions += late.height
        self.opened |= set(decided.decisions.filter(pl.col("state_after") == "open")["rule"])
        tightened = (pl.col("ts") == now) & (pl.col("leverage_cap_effective") < pl.col("leverage_cap_hard"))
        self.tightened += self.setting.every_min * limits.filter(tightened).height
        self.state, self.judged = decided.state, now


def _kept(rows: dict[str, pl.DataFrame], tables: dict[str, pl.DataFrame], since: datetime) -> dict[str, pl.DataFrame]:
    """The tables that bars and rules read, with the new rows, from as long before `since` as they look back."""
    reach = {**LOOKBACK_S, **dict.fromkeys(HELD, HELD_S)}
    return {
        name: pl.concat([rows[name], tables[name]] if name in rows else [tables[name]]).filter(
            pl.col("ts") > since - timedelta(seconds=reach.get(name, 0))
        )
        for name in (STREAM, *SERIES, *HELD)
    }


def bars_known(rows: dict[str, pl.DataFrame], setting: Setting, since: datetime, now: datetime) -> pl.DataFrame:
    """The bars of `(since, now]` from the rows that are known at `now`, by the project's own builder.

    `rows` reach back as far as bars look. Book events are left out: no rule reads them.
    """
    known = {name: frame.filter(pl.col("known_at") <= now) for name, frame in rows.items()}
    first = {STREAM: setting.start, "liquidations": setting.start}
    markets = {
        symbol: Market({STREAM: known[STREAM].filter(pl.col("symbol") == symbol).lazy()}, first)
        for symbol in setting.venue.symbols
    }
    sources = Sources(markets, {name: known[name].lazy() for name in SERIES})
    return bars_of(setting.venue.venue, sources, since, now)


def controls_of(limits: pl.DataFrame, symbols: Sequence[str]) -> Controls:
    """What the newest limits of each symbol allow at the venue; no throttle where the limits name none."""
    newest = {row["symbol"]: row for row in limits.sort("ts").group_by("symbol").last().to_dicts()}
    rows = [newest[symbol] for symbol in symbols]

    def cap(name: str) -> Any:
        told = [row.get(f"{name}_effective", row.get(name)) for row in rows]
        return np.array([np.inf if value is None else float(value) for value in told])

    action = tuple(str(row["action"]) for row in rows)
    return Controls(action, cap("leverage_cap"), cap("exposure_cap_usd"), cap("throttle_usd_min"))


# --- one arm of one seed ---


def run_arm(setting: Setting, seed: int, arm: Arm) -> tuple[ArmRun, frozenset[str]]:
    """Simulate one seed under one arm; returns the rules that have opened too."""
    guard = None if arm.policy is None else Guard(setting, arm.policy, arm.score)
    steer = guard if guard is not None else lambda _tables, _now: free(len(setting.venue.symbols))
    hours = setting.hours + WARM_MIN // 60
    before, kept = None, []
    for stretch in simulate_controlled(setting.venue, seed, setting.start, hours, steer, every_min=setting.every_min):
        if stretch.start < setting.opens:
            before = stretch
        else:
            kept.append((stretch, minutes_of(stretch, setting.venue)))
    minutes = pl.concat([frame for _, frame in kept])
    last = kept[-1][0]
    numbers = _money(before, last) | _market(minutes) | _restraint(minutes, before, last, guard)
    return ArmRun(arm.name, seed, numbers, minutes), frozenset(guard.opened if guard is not None else ())


def minutes_of(stretch: Stretch, venue: VenueSettings) -> pl.DataFrame:
    """One row per symbol and minute: the action in force, prices at its end, dollars forced in it.

    `dip` is the lowest `perp / index - 1` of the minute's steps. What the feed withheld is here too.
    """
    record, symbols = stretch.record, venue.symbols
    steps = record.perp.shape[0]
    ends = pl.Series([stretch.start + timedelta(seconds=(row + 1) * venue.step_s) for row in range(steps)])
    columns = {"price": record.perp, "index": record.index, "dip": record.perp / record.index - 1}
    usd = {name: np.zeros_like(record.perp) for name in ("liquidated_usd", "adl_usd")}
    for row, forced in record.forced:
        for name, chosen in (("liquidated_usd", ~forced.adl), ("adl_usd", forced.adl)):
            np.add.at(usd[name][row], forced.symbol[chosen], (np.abs(forced.qty) * forced.price)[chosen])
    frame = pl.DataFrame(
        {"symbol": np.tile(np.array(symbols), steps), "ts": ends.gather(np.arange(steps).repeat(len(symbols)))}
        | {name: values.ravel() for name, values in (columns | usd).items()}
    )
    minute = bar_end("ts").alias("ts")
    return (
        frame.group_by("symbol", minute, maintain_order=True)
        .agg(pl.col("price", "index").last(), pl.col("dip").min(), pl.col("liquidated_usd", "adl_usd").sum())
        .join(pl.DataFrame({"symbol": symbols, "action": stretch.controls.action}), on="symbol", how="left")
    )


def _money(before: Stretch | None, last: Stretch) -> Numbers:
    """Who pays for holes, in dollars, since controls hold."""
    names = ("bad_debt_usd", "fund_draw_usd")
    return {name: getattr(last, name) - (getattr(before, name) if before is not None else 0.0) for name in names}


def _market(minutes: pl.DataFrame) -> Numbers:
    """What is liquidated, and how far prices fall: below their own index, and within an hour."""
    highest = pl.col("price").rolling_max(61, min_samples=1).over("symbol")
    fall = minutes.sort("symbol", "ts").select((1 - pl.col("price") / highest).max()).item()
    totals = {name: float(minutes[name].sum()) for name in ("liquidated_usd", "adl_usd")}
    return totals | {"worst_dip": max(-float(minutes["dip"].min()), 0.0), "worst_hour": float(fall)}  # type: ignore[arg-type]


def _restraint(minutes: pl.DataFrame, before: Stretch | None, last: Stretch, guard: Guard | None) -> Numbers:
    """What it costs those who trade: minutes x symbols under an action, and the growth that was refused."""
    level = minutes["action"].replace_strict(list(ACTIONS), list(range(len(ACTIONS))), return_dtype=pl.Int64)
    return {
        "restricted_min": float((level > 0).sum()),
        "paused_min": float((level > 1).sum()),
        "refused_usd": last.refused_usd - (before.refused_usd if before is not None else 0.0),
        "decisions": float(guard.decisions if guard is not None else 0),
        "tightened_min": float(guard.tightened if guard is not None else 0),
    }


# --- all arms of all seeds ---

Work: TypeAlias = Callable[[int], list[ArmRun]]  # a seed -> its arms


def run_seed(setting: Setting, arms: Sequence[Arm], seed: int) -> list[ArmRun]:
    """Every arm of one seed, in order.

    A breaker that has not opened under all rules would not have without it: where the two policies differ in nothing
    else, so do the days, and the day is not simulated again.
    """
    runs: list[ArmRun] = []
    opened: frozenset[str] = frozenset()
    for arm in arms:
        idle = arm.removed is not None and not _always_binds(arm.removed) and arm.removed not in opened
        if idle:
            whole = next(run for run in runs if run.arm == GUARDED)
            runs.append(replace(whole, arm=arm.name))
            continue
        run, tripped = run_arm(setting, seed, arm)
        opened = tripped if arm.name == GUARDED else opened
        runs.append(run)
    return [run if run.arm in DRAWN else replace(run, minutes=run.minutes.clear()) for run in runs]


def run_seeds(
    setting: Setting,
    policy: Policy,
    seeds: Sequence[int],
    *,
    score: Score | None = volatility_score,
    workers: int = 1,
    memory: Callable[[Work, int], list[ArmRun]] | None = None,
) -> Iterator[tuple[int, list[ArmRun]]]:
    """Every arm of every seed, seed by seed in the order of `seeds`, whatever `workers` is.

    `score` stands for the model; None leaves its arm out. `memory(work, seed)` is asked for each seed and may know what
    `work(seed)` would come to. With several workers both must be importable.
    """
    work = partial(run_seed, setting, arms_of(policy, score))
    return each_seed(work if memory is None else partial(memory, work), seeds, workers=workers)
