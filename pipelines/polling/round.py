"""One venue's round: every symbol's marks, book, funding and open interest, then everybody's trades.

Everything that comes of it is handed on line by line as it comes, so that a round that is cut off keeps what it had.
Trades come last: paging back through a burst of them must not cost another symbol its book.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pipelines.config import PollConfig
from pipelines.polling.asking import Answer, Patience, ShutError, UnansweredError, ask
from pipelines.polling.captures import Line, encoded, stamp
from pipelines.polling.exchanges import Habits, habits, market_of
from pipelines.polling.trades import Cursor, Trade, kept, oldest

Put = Callable[[Line], None]
PAGES_MAX = 50  # back through the trades of one symbol in one run; what lies further back is a gap
SKEW_S_MAX = 5.0  # clocks kept by network time differ by milliseconds; bars of a minute bear seconds
TICKER = ("timestamp", "last", "markPrice", "indexPrice")
FUNDING = ("timestamp", "fundingRate", "interval", "fundingTimestamp", "markPrice", "indexPrice")
OPEN_INTEREST = ("timestamp", "openInterestAmount", "openInterestValue", "baseVolume")
NEEDS = {"book": "fetchOrderBook", "trades": "fetchTrades", "funding": "fetchFundingRate", "marks": "fetchTicker",
         "open_interest": "fetchOpenInterest"}  # fmt: skip


@dataclass
class Round:
    """What a round needs and what it has come to. `notes` are for people; lines go out through `put`."""

    exchange: Any
    poll: PollConfig
    patience: Patience
    put: Put
    notes: list[str] = field(default_factory=list)
    unoffered: list[str] = field(default_factory=list)
    clock_offset_s: float | None = None

    @property
    def habits(self) -> Habits:
        return habits(self.poll.exchange)

    # --- lines ---

    def line(self, kind: str, symbol: str, answer: Answer, **payload: Any) -> None:
        """Hand on one answer. Raises UnansweredError for one that holds a number that is none."""
        line = {
            "poll": 1,
            "exchange": self.poll.exchange,
            "venue": self.poll.venue,
            "kind": kind,
            "symbol": symbol,
            "asked_at": stamp(answer.asked_at),
            "answered_at": stamp(answer.answered_at),
            **payload,
        }
        try:
            encoded(line)
        except ValueError:
            raise UnansweredError("answer holds a number that is none") from None
        self.put(line)

    def gap(self, kind: str, symbol: str, since: str | None, why: str) -> None:
        """Hand on that something could not be had, from `since` until now."""
        now = self.patience.clock.now()
        until = stamp(now)
        gap = {"of": kind, "from": since or until, "to": until, "why": why}
        self.line("gap", symbol, Answer(None, now, now), gap=gap)

    # --- asking ---

    def ask(self, question: Callable[[], Any]) -> Answer:
        return ask(self.exchange, question, self.patience)

    def has(self, call: str) -> bool:
        return bool(self.exchange.has.get(call))


def play(round_: Round, cursors: dict[str, Cursor]) -> None:
    """Ask everything once. Raises ShutError or UnansweredError where the venue as a whole is out of reach."""
    round_.ask(round_.exchange.load_markets)
    _compare_clocks(round_)
    markets = _markets(round_)
    kinds = [kind for kind in round_.poll.kinds if round_.has(NEEDS[kind])]
    round_.unoffered = sorted(set(round_.poll.kinds) - set(kinds))
    for kind in round_.unoffered:
        round_.notes.append(f"ccxt offers no {kind} of {round_.poll.exchange}")
    if "funding" in kinds:
        _funding_intervals(round_, markets)
    for symbol, market in markets.items():
        for kind in kinds:
            if kind != "trades":
                _attempt(round_, kind, symbol, ASKED[kind], market)
    if "trades" in kinds:
        _all_trades(round_, markets, cursors)


def _compare_clocks(round_: Round) -> None:
    """Note a venue clock that is far from ours: its stamps and ours would not fit together."""
    if not round_.has("fetchTime"):
        return
    try:
        answer = round_.ask(round_.exchange.fetch_time)
        middle = answer.asked_at + (answer.answered_at - answer.asked_at) / 2
        round_.clock_offset_s = float(answer.value) / 1000 - middle.timestamp()
    except ShutError:
        raise
    except (UnansweredError, TypeError, ValueError):
        return
    if abs(round_.clock_offset_s) > SKEW_S_MAX:
        side = "ahead of" if round_.clock_offset_s > 0 else "behind"
        round_.notes.append(f"the venue's clock is {abs(round_.clock_offset_s):,.0f} s {side} ours")


def _markets(round_: Round) -> dict[str, Any]:
    """The markets of the configured symbols, beginning with another one every minute.

    So a budget that ends early is nobody's constant loss. A symbol that the exchange does not have is a gap.
    """
    symbols = round_.poll.symbols
    first = int(round_.patience.clock.now().timestamp() // 60) % len(symbols)
    found = {}
    for symbol in (*symbols[first:], *symbols[:first]):
        market = market_of(round_.exchange, symbol, round_.poll.role)
        if market is not None:
            found[symbol] = market
            continue
        round_.notes.append(f"{symbol} is no {round_.poll.role} market of {round_.poll.exchange}")
        for kind in round_.poll.kinds:
            round_.gap(kind, symbol, None, "symbol not at the exchange")
    return found


def _attempt(round_: Round, kind: str, symbol: str, question: Callable[[Round, Any], None], market: Any) -> None:
    """One symbol's answer, or a gap: no other symbol or kind is touched, unless the venue shuts the door."""
    try:
        question(round_, market)
    except ShutError:
        raise
    except UnansweredError as error:
        round_.gap(kind, symbol, None, str(error))


# --- the slow ones ---------------------------------------------------------------------------------------------------


def _picked(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """The named fields of ccxt's structure, and the venue's raw answer, which knows more."""
    return {**{name: value.get(name) for name in names}, "info": value.get("info")}


def _book(round_: Round, market: Any) -> None:
    answer = round_.ask(lambda: round_.exchange.fetch_order_book(market["symbol"], round_.poll.book_levels))
    book = {name: answer.value[name] for name in ("timestamp", "nonce")}
    sides = {side: [level[:2] for level in answer.value[side]] for side in ("bids", "asks")}
    round_.line("book", market["id"], answer, contract_size=market["contractSize"], book=book | sides)


def _marks(round_: Round, market: Any) -> None:
    """The ticker, then mark and index where it does not tell them and the exchange does elsewhere."""
    exchange, symbol, habit = round_.exchange, market["symbol"], round_.habits
    answers = [round_.ask(lambda: exchange.fetch_ticker(symbol))]
    if market["contract"] and answers[0].value.get("markPrice") is None and exchange.has.get("fetchMarkPrice") is True:
        answers.append(round_.ask(lambda: exchange.fetch_mark_price(symbol)))
    untold = all(answer.value.get("indexPrice") is None for answer in answers)
    index = habit.index
    if market["contract"] and untold and index is not None:
        answers.append(round_.ask(lambda: index(exchange, market)))
    for answer in answers:
        round_.line("ticker", market["id"], answer, ticker=_picked(answer.value, TICKER))


def _funding(round_: Round, market: Any) -> None:
    answer = round_.ask(lambda: round_.exchange.fetch_funding_rate(market["symbol"]))
    round_.line("funding", market["id"], answer, funding=_picked(answer.value, FUNDING))


def _open_interest(round_: Round, market: Any) -> None:
    answer = round_.ask(lambda: round_.exchange.fetch_open_interest(market["symbol"]))
    told = _picked(answer.value, OPEN_INTEREST)
    round_.line("open_interest", market["id"], answer, contract_size=market["contractSize"], open_interest=told)


ASKED: dict[str, Callable[[Round, Any], None]] = {
    "marks": _marks,
    "book": _book,
    "funding": _funding,
    "open_interest": _open_interest,
}


def _funding_intervals(round_: Round, markets: dict[str, Any]) -> None:
    """The list of intervals, where an exchange tells them apart from the rates: once for all symbols."""
    if round_.exchange.has.get("fetchFundingIntervals") is not True:
        return
    try:
        answer = round_.ask(round_.exchange.fetch_funding_intervals)
        told = {symbol: answer.value.get(market["symbol"]) for symbol, market in markets.items()}
        rows = [{"symbol": symbol, "interval": rate.get("interval")} for symbol, rate in told.items() if rate]
        round_.line("intervals", "*", answer, intervals=rows)
    except ShutError:
        raise
    except UnansweredError as error:
        round_.notes.append(f"funding intervals: {error}")


# --- trades ----------------------------------------------------------------------------------------------------------


@dataclass
class _Chase:
    """One symbol's way back from its latest trades to the ones that are known."""

    symbol: str
    market: Any
    known: Cursor | None
    seen: set[Any] = field(default_factory=set)
    last: Trade | None = None  # the oldest trade so far
    joined: bool = True

    def take(self, round_: Round, answer: Answer) -> bool:
        """Hand on what is new of a page; whether the page went further back."""
        page = [trade for trade in answer.value if trade["id"] is None or trade["id"] not in self.seen]
        self.seen |= {trade["id"] for trade in page}
        new = page if self.known is None else self.known.unknown(page)
        count = len(answer.value)
        self.joined = self.known is None or (count == 0 and self.last is None) or self.known.reached(answer.value)
        facts = {"contract_size": self.market["contractSize"], "told": count, "joined": self.joined}
        round_.line("trades", self.symbol, answer, **facts, trades=[kept(trade) for trade in new])
        before, self.last = self.last, oldest([*page, *([] if self.last is None else [self.last])])
        return self.last is not before


def _all_trades(round_: Round, markets: dict[str, Any], cursors: dict[str, Cursor]) -> None:
    """Everybody's latest page first; then, symbol by symbol, back to where the last run ended."""
    chases = [_Chase(symbol, market, cursors.get(symbol)) for symbol, market in markets.items()]
    begun = [chase for chase in chases if _latest(round_, chase)]
    for chase in begun:
        if not chase.joined:
            _back(round_, chase)


def _latest(round_: Round, chase: _Chase) -> bool:
    try:
        answer = round_.ask(lambda: round_.exchange.fetch_trades(chase.market["symbol"], None, round_.habits.page))
        chase.take(round_, answer)
    except ShutError:
        raise
    except UnansweredError as error:
        round_.gap("trades", chase.symbol, None if chase.known is None else moment(chase.known.ts_ms), str(error))
        return False
    return True


def _back(round_: Round, chase: _Chase) -> None:
    """Page back until the pages join what is known; what they do not join is a gap."""
    why = "the exchange shows no older trades"
    try:
        for page in _older_pages(round_, chase):
            went_on = chase.take(round_, page)
            if chase.joined:
                return
            if not went_on:
                break
        else:
            why = f"{PAGES_MAX} pages were not enough" if round_.habits.older is not None else why
    except ShutError as error:
        why = str(error)
        raise
    except UnansweredError as error:
        why = str(error)
    finally:
        if not chase.joined and chase.known is not None:
            _not_joined(round_, chase, chase.known, why)


def _older_pages(round_: Round, chase: _Chase) -> Iterator[Answer]:
    older, symbol = round_.habits.older, chase.market["symbol"]
    for _ in range(PAGES_MAX if older is not None else 0):
        if older is None or chase.last is None:
            return
        params = older(chase.last)
        yield round_.ask(lambda: round_.exchange.fetch_trades(symbol, None, round_.habits.page_older, params))  # noqa: B023


def _not_joined(round_: Round, chase: _Chase, known: Cursor, why: str) -> None:
    """A hole between the newest known trade and the oldest of this run."""
    now = round_.patience.clock.now()
    until = stamp(now) if chase.last is None else moment(int(chase.last["timestamp"] or now.timestamp() * 1000))
    gap = {"of": "trades", "from": moment(known.ts_ms), "to": until, "why": f"not joined: {why}"}
    round_.line("gap", chase.symbol, Answer(None, now, now), gap=gap)


def moment(ts_ms: int) -> str:
    """A venue's stamp as the lines of a capture write moments."""
    return stamp(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ts_ms))
