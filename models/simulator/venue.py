"""The venue: one step after another, prices, makers, owners, marks, liquidations; and an hour of it as tables.

No cascade is scheduled and none is marked. What exists is a rate of exogenous jumps, owners who lever up, makers who
leave when it gets rough, and a rule that sells those who cannot pay.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from features.schema import Instruments, polars_schema
from models.simulator.accounts import OWNERS_EVERY_S, Ledger, draw_traits, with_tokens
from models.simulator.behaviour import (
    WORRY,
    Orders,
    Screen,
    decide,
    initial_orders,
    move_deposits,
    stop_orders,
    worried_orders,
)
from models.simulator.book import ASK, BID, VISIBLE_BPS, Book
from models.simulator.controls import Controls, allowed, free
from models.simulator.emit import Emitter
from models.simulator.legs import Market, open_legs
from models.simulator.liquidation import Costs, Forced, liquidate
from models.simulator.margin import BREACHED, FINE, scan
from models.simulator.outages import HALT, OutageDraws, Outages, draw_outages, withhold
from models.simulator.path import Desk
from models.simulator.peg import STABLECOIN_QUOTE, Peg, PegDraws, draw_peg, stablecoin_symbol
from models.simulator.prices import Prices, Shocks, draw_shocks
from models.simulator.record import HourRecord
from models.simulator.settings import (
    HOUR_S,
    Floats,
    VenueSettings,
    position_limits_usd,
    start_prices_usd,
    tick_usd,
    tier_arrays,
    tiers_of_rank,
)

IMPACT_KEPT = 0.8  # of an order's impact that is still there at the end of the step
TAKER_SHARE = 0.5  # of the owners' net flow that crosses the spread; the rest waits as limit orders and is met
CHURN_SHARE = 0.005  # of the ordinary depth within 100 bps that unmodelled takers trade per 20 s, each way together
DEPOSIT_EVERY_S = 300
CHURN_ALWAYS = 0.2  # of their volume that does not ask how far the index moves
CHURN_LEAN = 0.5  # how strongly they follow the index
PAIRED = 7  # place of the dice of paired runs among those of a seed

Tables: TypeAlias = dict[str, pl.DataFrame]
Steer: TypeAlias = Callable[[Tables, datetime], Controls]  # the tables of the last minutes, and now -> what holds next


@dataclass(frozen=True)
class Draws:
    """One hour of exogenous dice; rows are steps."""

    shocks: Shocks
    makers: Floats  # moods of the makers, (steps, symbols, 2)
    churn: Floats  # dollars of unmodelled takers, (steps, symbols, 2)
    peg: PegDraws
    outages: OutageDraws

    def rows(self, steps: slice) -> "Draws":
        return Draws(*(_steps_of(getattr(self, name), steps) for name in self.__dataclass_fields__))


def _steps_of(draws: Any, steps: slice) -> Any:
    """The rows `steps` of an array, or of every array of a dataclass."""
    if isinstance(draws, np.ndarray):
        return draws[steps]
    return type(draws)(*(getattr(draws, name)[steps] for name in draws.__dataclass_fields__))


class Venue:
    """All state of one simulated venue; `run_hour` moves it by one hour, `run_minutes` by a part of one.

    With `paired`, owners have dice of their own in every step: what they did before, and what `steer` kept them from,
    does not shift them. Two runs of a seed under different controls then differ by the controls alone.
    """

    def __init__(self, settings: VenueSettings, seed: int, *, paired: bool = False) -> None:
        dice = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(7))
        population, world, owners, prints, holders, self.peg_dice, self.outage_dice = dice
        self.settings, self.seed, self.paired = settings, seed, paired
        self.world, self.owners = world, owners
        self.prices, self.book = Prices(settings), Book(settings)
        self.peg, self.outages = Peg(settings), Outages(settings)
        traits = with_tokens(draw_traits(settings, population), settings.stablecoin_account_share, holders)
        self.ledger = Ledger(settings, traits, population)
        self.tiers = tier_arrays(settings)
        self.leverage_max = 0.5 / self.tiers[0][0]
        self.position_usd_max = position_limits_usd(settings)
        self.half_spread = settings.half_spread_bps / 1e4
        self.desk, self.steps = Desk(settings), 0
        self.costs = Costs(self.half_spread, settings.fee_liquidation, settings.adl)
        self.premium_sum, self.premium_steps = np.zeros(len(settings.symbols)), 0
        self.emitter = Emitter(settings, prints)
        self.refused_usd = 0.0  # growth of positions that controls have refused
        self.steer(free(len(settings.symbols)))
        self._open_market()
        self.gross_base = self.ledger.gross_base()

    def steer(self, controls: Controls) -> None:
        """Put `controls` in force until the next ones."""
        self.controls, self.forced_left_usd = controls, controls.throttle_usd_min
        self.ledger.leverage_cap = controls.leverage_cap

    def _open_market(self) -> None:
        """Give about half of the owners a position at the opening price."""
        orders = initial_orders(self.ledger, self._screen(), self.owners)
        price = self.prices.perp[orders.symbol]
        self.ledger.trade(orders.account, orders.symbol, orders.dq, price)

    def _screen(self) -> Screen:
        prices = self.prices
        depth = self.book.within_usd(100.0).min(axis=1)
        return Screen(
            prices.mark,
            prices.trend,
            prices.heat,
            prices.unrest,
            prices.premium,
            self.leverage_max,
            depth,
            self.position_usd_max,
        )

    def run_hour(self, start: datetime) -> HourRecord:
        """Simulate `(start, start + 1 h]`."""
        return self.run_minutes(start, 60)

    def run_minutes(self, start: datetime, minutes: int) -> HourRecord:
        """Simulate `(start, start + minutes]`, all of it within an hour whose minutes are run one after the other.

        The dice of an hour are thrown at its beginning, so that they do not depend on the parts it is run in.
        """
        step_s = self.settings.step_s
        first, steps = start.minute * 60 // step_s, minutes * 60 // step_s
        if first == 0:
            self.hour = self._draw_hour()
        draws, record = self.hour.rows(slice(first, first + steps)), HourRecord(start, self.settings, steps)
        for row in range(steps):
            end = start + timedelta(seconds=(row + 1) * step_s)
            self._step(draws, row, end, record)
        return record

    def _draw_hour(self) -> Draws:
        steps = HOUR_S // self.settings.step_s
        shocks = draw_shocks(self.settings, steps, self.world)
        makers = self.world.standard_normal((steps, len(self.settings.symbols), 2))
        rare = draw_peg(steps, self.peg_dice), draw_outages(steps, self.outage_dice)
        return Draws(shocks, makers, self._churn(shocks), *rare)

    def _churn(self, shocks: Shocks) -> Floats:
        """Dollars unmodelled takers hit bids and asks with, (steps, symbols, 2), before the market's activity."""
        noise = self.world.standard_normal((2, *shocks.index.shape))
        usd = CHURN_SHARE * self.settings.step_s / 20 * self.book.ordinary_usd[:, 0] * np.exp(0.6 * noise[0] - 0.18)
        usd = usd * (CHURN_ALWAYS + (1 - CHURN_ALWAYS) * np.abs(shocks.index) / np.sqrt(2 / np.pi))
        lean = 0.6 * np.tanh(CHURN_LEAN * shocks.index + 0.4 * noise[1])
        return np.stack([usd * (1 - lean) / 2, usd * (1 + lean) / 2], axis=2)

    def _step(self, hour: Draws, row: int, end: datetime, record: HourRecord) -> None:
        prices, ledger, book = self.prices, self.ledger, self.book
        self._renew(end)
        hour_of_day = end.hour + end.minute / 60 + end.second / HOUR_S
        prices.advance(hour.shocks, row, hour_of_day, self._crowding())
        ledger.token_price = self.peg.advance(hour.peg, row)
        record.depth_before[row] = book.within_usd(VISIBLE_BPS)
        if self._halted(hour, row, record):
            prices.hold()
        else:
            self._trade(hour, row, end, record)
        self.steps += 1
        prices.settle_step()
        if self._passed(end, DEPOSIT_EVERY_S):
            move_deposits(ledger, DEPOSIT_EVERY_S, self.owners)
        self._fund(end, record)
        self.gross_base = ledger.gross_base()
        self._write(row, end, record)

    def _renew(self, end: datetime) -> None:
        """Dice of the step where runs are paired, and the throttle's budget in the first step of a minute."""
        if self.paired:
            self.owners = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(PAIRED, self.steps)))
        if (end.minute * 60 + end.second - self.settings.step_s) % 60 < self.settings.step_s:
            self.forced_left_usd = self.controls.throttle_usd_min

    def _halted(self, hour: Draws, row: int, record: HourRecord) -> bool:
        """Whether nothing at all is matched in this step; notes an outage where one begins or goes on."""
        ratio = self.prices.latent_var / self.prices.base_var
        outage = self.outages.advance(hour.outages, row, self.steps * self.settings.step_s, ratio)
        if outage is not None and outage not in record.outages:
            record.outages.append(outage)
        record.halted[row] = outage is not None and outage.kind == HALT
        record.still[row] = self.controls.halted
        return bool(record.halted[row])

    def _trade(self, hour: Draws, row: int, end: datetime, record: HourRecord) -> None:
        """Makers, takers, owners, then the venue's liquidations."""
        prices, book, still = self.prices, self.book, self.controls.halted
        prices.hold(still)
        resting = book.state
        book.requote(0.5 * np.log(prices.latent_var / prices.base_var) + 0.5 * np.log(prices.heat), hour.makers[row])
        book.state = np.where(still[:, None], resting, book.state)
        taken = hour.churn[row] * np.clip(prices.heat**2, 0.4, 8.0)[:, None] * ~still[:, None]
        taken = taken + self._owners_trade(self._passed(end, OWNERS_EVERY_S))
        book.eat(taken)
        record.taken[row] = taken + self._liquidate(row, record)

    def _crowding(self) -> Floats:
        """Net over gross positions of the accounts, in [-1, 1]; 0 where there is none."""
        return np.asarray(-self.ledger.house_qty / np.maximum(self.gross_base, 1e-12))

    def _passed(self, end: datetime, every_s: int) -> bool:
        """Whether a multiple of `every_s` within the hour lies in the step that ends at `end`."""
        second = end.minute * 60 + end.second
        return second // every_s != (second - self.settings.step_s) // every_s

    def _owners_trade(self, full_minute: bool) -> Floats:
        """Execute stops and, on a full minute, decisions; returns dollars taken, (symbols, 2)."""
        ledger, mark = self.ledger, self.prices.mark
        seen = scan(ledger, mark, self.tiers, WORRY)
        stopped = np.flatnonzero(seen.stopped)
        taken = np.zeros((len(self.settings.symbols), 2))
        if stopped.size:
            taken += self._fill(self._allowed(stop_orders(ledger, mark, stopped), seen.equity_usd), 1.0)
        if full_minute:
            orders = decide(ledger, self._screen(), seen.equity_usd, self.owners)
            seen.health[orders.account] = FINE  # they have acted
            worried = np.flatnonzero((seen.health != FINE) & ledger.qty.any(axis=1))
            cuts = worried_orders(ledger, mark, worried, self.owners)
            taken += self._fill(self._allowed(_both(orders, cuts), seen.equity_usd), TAKER_SHARE)
        return taken

    def _allowed(self, orders: Orders, equity_usd: Floats) -> Orders:
        sent, refused_usd = allowed(orders, self.ledger, self.prices.mark, equity_usd, self.controls)
        self.refused_usd += refused_usd
        return sent

    def _fill(self, orders: Orders, taker_share: float) -> Floats:
        """Fill orders at the middle of their net impact, half a spread worse; returns dollars taken."""
        count, perp = len(self.settings.symbols), self.prices.perp
        usd = orders.dq * perp[orders.symbol]
        taken = np.stack(
            [np.bincount(orders.symbol, np.maximum(sign * usd, 0.0), count) for sign in (-1.0, 1.0)], axis=1
        )
        net = taken[:, ASK] - taken[:, BID]
        everything = slice(None)
        rise = self.book.impact(everything, ASK, taker_share * np.maximum(net, 0.0))
        fall = self.book.impact(everything, BID, taker_share * np.maximum(-net, 0.0))
        side = np.sign(orders.dq) * self.half_spread
        middle = (perp * np.exp((rise - fall) / 2))[orders.symbol]
        self.ledger.trade(orders.account, orders.symbol, orders.dq, middle * (1 + side))
        self.prices.push_by(IMPACT_KEPT * (rise - fall))
        return np.asarray(taker_share * taken)

    def _liquidate(self, row: int, record: HourRecord) -> Floats:
        """Move the path of all units in liquidation by one step's rounds; returns dollars taken, (symbols, 2)."""
        taken = np.zeros((len(self.settings.symbols), 2))
        for tick in range(self.steps * self.desk.rounds, (self.steps + 1) * self.desk.rounds):
            mark = self.prices.mark
            breached = np.flatnonzero(scan(self.ledger, mark, self.tiers, WORRY).health == BREACHED)
            if not (breached.size or self.desk.keys.size):
                break
            among = np.union1d(breached, self.desk.accounts())
            legs, sale = self.desk.sales(open_legs(self.ledger, mark, self.tiers, among), tick)
            matched = ~self.controls.halted[legs.symbol]
            market = Market(mark, self.prices.perp, self.tiers, self.book, self.forced_left_usd)
            forced = liquidate(self.ledger, market, legs.rows(matched), sale.rows(matched), self.costs)
            if forced.qty.size:
                record.forced.append((row, forced))
                usd = self._forced_usd(forced)
                self.forced_left_usd = np.maximum(self.forced_left_usd - usd.sum(axis=1), 0.0)
                self._press(usd)
                taken += usd
        return taken

    def _forced_usd(self, forced: Forced) -> Floats:
        count = len(self.settings.symbols)
        usd = forced.book_share * forced.qty * self.prices.perp[forced.symbol]
        return np.stack(
            [np.bincount(forced.symbol, np.maximum(sign * usd, 0.0), count) for sign in (1.0, -1.0)], axis=1
        )

    def _press(self, usd: Floats) -> None:
        """Move the price by what forced orders took from the book."""
        everything = slice(None)
        rise = self.book.impact(everything, ASK, usd[:, ASK])
        fall = self.book.impact(everything, BID, usd[:, BID])
        self.prices.push_by(IMPACT_KEPT * (rise + np.log1p(-np.minimum(fall, 0.5))))
        self.book.eat(usd)

    def _fund(self, end: datetime, record: HourRecord) -> None:
        """Average the premium; settle funding where the interval ends."""
        prices, interval_h = self.prices, self.settings.funding_interval_h
        self.premium_sum = self.premium_sum + (prices.perp / prices.index - 1)
        self.premium_steps += 1
        if end.hour % interval_h or end.minute or end.second:
            return
        cap = self.settings.funding_rate_max
        rate = np.clip(self.premium_sum / self.premium_steps * interval_h / 8, -cap, cap)
        self.ledger.pay_funding(rate, prices.mark)
        record.funding.append((end, rate))
        self.premium_sum, self.premium_steps = np.zeros_like(rate), 0

    def _write(self, row: int, end: datetime, record: HourRecord) -> None:
        prices = self.prices
        record.perp_before[row], record.perp[row] = prices.perp_before, prices.perp
        record.mark[row], record.index[row] = prices.index + prices.basis_ema, prices.index
        record.depth_after[row] = self.book.within_usd(VISIBLE_BPS)
        record.heat[row] = prices.heat
        record.token_price[row] = self.ledger.token_price
        record.oi_base[row] = (self.gross_base + np.abs(self.ledger.house_qty)) / 2
        if (end.minute * 60 + end.second) % self.settings.snapshot_s == 0:
            record.take_snapshot(end, self.ledger, record.mark[row])


def _both(first: Orders, second: Orders) -> Orders:
    pairs = ((getattr(first, name), getattr(second, name)) for name in ("account", "symbol", "dq"))
    return Orders(*(np.concatenate(pair) for pair in pairs))


def simulate(settings: VenueSettings, seed: int, start: datetime, hours: int) -> Iterator[Tables]:
    """Yield one dict of canonical tables per simulated hour `(t, t + 1 h]`, `hours` of them from `start` on.

    Keys: trades, candles, book_events, book_depth, marks, funding, open_interest, liquidations, collateral, positions;
    a table without rows in the hour is empty, not absent. Frames are sorted by symbol (or account) and ts. The first
    hours do not depend on `hours`. Memory is flat in `hours`. Raises ValueError if `start` is not a full hour of UTC
    or `hours` is negative.
    """
    _check_span(start, hours)
    return _hours(settings, seed, start.astimezone(UTC), hours)


def _check_span(start: datetime, hours: int) -> None:
    if start.utcoffset() != timedelta(0) or (start.minute, start.second, start.microsecond) != (0, 0, 0):
        raise ValueError(f"`start` must be a full hour of UTC, was {start.isoformat()}")
    if not hours >= 0:
        raise ValueError(f"`hours` must be at least 0, was {hours}")


def _hours(settings: VenueSettings, seed: int, start: datetime, hours: int) -> Iterator[Tables]:
    venue = Venue(settings, seed)
    epoch_us = round(start.timestamp()) * 1_000_000
    for hour in range(hours):
        record = venue.run_hour(start + timedelta(hours=hour))
        yield withhold(venue.emitter.tables(record), record.outages, epoch_us)


@dataclass(frozen=True)
class Stretch:
    """A stretch `(start, end]` of a controlled run. Dollars are totals since the run began."""

    start: datetime
    end: datetime
    controls: Controls  # in force all along
    tables: Tables  # as the feed delivers them
    record: HourRecord  # as it was
    fund_draw_usd: float
    bad_debt_usd: float
    adl_loss_usd: float  # what winners and house gave up against the mark
    refused_usd: float  # growth of positions that controls refused


def simulate_controlled(
    settings: VenueSettings, seed: int, start: datetime, hours: int, steer: Steer, *, every_min: int = 5
) -> Iterator[Stretch]:
    """Yield the run of a seed in stretches of `every_min` minutes; between two, `steer` says what holds in the next.

    `steer` is given the tables of the last stretch and its end; rows that are known only later are among them, as
    they are among those of an hour. Nothing is controlled in the first stretch. Exogenous dice are those of `simulate`,
    whatever `steer` says; owners' dice are their own in every step, so that runs of a seed are paired (see `Venue`).
    Prints are cut stretch by stretch, with dice that touch nothing else.

    Raises ValueError as `simulate` does, and unless `every_min` divides 60 and holds whole steps.
    """
    _check_span(start, hours)
    if not (1 <= every_min <= 60 and 60 % every_min == 0 and every_min * 60 % settings.step_s == 0):
        raise ValueError(f"`every_min` must divide 60 and hold whole steps of {settings.step_s} s, was {every_min}")
    return _stretches(
        Venue(settings, seed, paired=True), start.astimezone(UTC), hours * 60 // every_min, steer, every_min
    )


def _stretches(venue: Venue, start: datetime, count: int, steer: Steer, every_min: int) -> Iterator[Stretch]:
    epoch_us, ledger = round(start.timestamp()) * 1_000_000, venue.ledger
    for number in range(count):
        begin = start + timedelta(minutes=number * every_min)
        record = venue.run_minutes(begin, every_min)
        tables = withhold(venue.emitter.tables(record), record.outages, epoch_us)
        totals = (ledger.fund_draw, ledger.bad_debt, ledger.adl, venue.refused_usd)
        end = begin + timedelta(minutes=every_min)
        yield Stretch(begin, end, venue.controls, tables, record, *totals)
        if number + 1 < count:
            venue.steer(steer(tables, end))


def instruments(settings: VenueSettings, effective_from: datetime) -> pl.DataFrame:
    """The venue's instruments: linear perpetuals settled in USDT, with tiers, fees, mark rule and path.

    Where accounts hold the stablecoin, the spot market that prices it, with its haircut.
    """
    count = len(settings.symbols)
    rows = {
        "venue": [settings.venue] * count,
        "symbol": list(settings.symbols),
        "effective_from": [effective_from] * count,
        "base": [symbol.split("-")[0] for symbol in settings.symbols],
        "quote": ["USDT"] * count,
        "settlement": ["linear"] * count,
        "contract_size": [1.0] * count,
        "tick": tick_usd(start_prices_usd(settings)).tolist(),
        "tiers": [tiers_of_rank(rank) for rank in range(count)],
        "mark_rule": [f"index + EMA(mid - index, {settings.mark_ema_s:g} s)"] * count,
        "path": [settings.path.kind] * count,
        "fee_taker": [settings.fee_taker] * count,
        "fee_liquidation": [settings.fee_liquidation] * count,
        "haircut": [0.0] * count,
        "spot_reference": [None] * count,
    }
    frame = pl.DataFrame(rows, schema=polars_schema(Instruments))
    return pl.concat([frame, _token(settings, effective_from)]) if settings.stablecoin_account_share > 0 else frame


def _token(settings: VenueSettings, effective_from: datetime) -> pl.DataFrame:
    row = {
        "venue": settings.venue,
        "symbol": stablecoin_symbol(settings),
        "effective_from": effective_from,
        "base": settings.stablecoin,
        "quote": STABLECOIN_QUOTE,
        "settlement": "spot",
        "contract_size": 1.0,
        "haircut": settings.stablecoin_haircut,
    }
    schema = polars_schema(Instruments)
    return pl.DataFrame([row | {name: None for name in schema if name not in row}], schema=schema)
