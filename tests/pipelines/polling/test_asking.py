"""One question and everything that can happen to it, over a real connection; waits are taken by a clock in hand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from pipelines.config import PollConfig
from pipelines.polling.asking import Answer, Patience, ShutError, UnansweredError, ask
from pipelines.polling.exchanges import connected
from tests.pipelines.polling.hands import T0, Hands
from tests.pipelines.polling.rest import Fault, Rest, no_port
from tests.pipelines.polling.venues import T0_MS

pytestmark = [pytest.mark.service, pytest.mark.usefixtures("unthrottled")]
HTML = b"<html><body>Please sign in to the hotel's network</body></html>"


@pytest.fixture(autouse=True)
def standing(binance: Rest) -> None:
    """The venue's clock stands still, so that its answer is known."""
    binance.venue.now_ms = lambda: T0_MS


@contextmanager
def exchange_at(url: str, hands: Hands) -> Iterator[Any]:
    poll = PollConfig(exchange="binanceusdm", venue="binance-usdm", symbols=("BTCUSDT",), base_url=url)
    exchange = connected(poll, hands.clock())
    try:
        yield exchange
    finally:
        exchange.close()


def asked_time(rest: Rest, hands: Hands, patience: Patience | None = None) -> Answer:
    with exchange_at(rest.url, hands) as exchange:
        return ask(exchange, exchange.fetch_time, patience or hands.patience())


def first(count: int, fault: Fault) -> Callable[[str, dict[str, str], int], Fault | None]:
    """The fault for the first `count` requests of a path, the truth after."""
    return lambda path, query, nth: fault if nth < count else None


def test_an_answer_knows_when_it_was_asked_for_and_when_it_was_complete(binance: Rest, hands: Hands) -> None:
    binance.venue.now_ms = lambda: hands.on(2.5) or T0_MS  # the venue thinks for 2.5 s
    answer = asked_time(binance, hands)
    assert (answer.value, answer.asked_at, answer.answered_at) == (T0_MS, T0, T0 + timedelta(seconds=2.5))
    assert hands.waits_s == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_venue_that_is_asked_too_often_is_left_alone_as_long_as_it_says(
    binance: Rest, hands: Hands, status: int
) -> None:
    binance.faults = first(1, Fault(status, b"{}", {"Retry-After": "7"}))
    assert asked_time(binance, hands).value == T0_MS
    assert hands.waits_s == [7.0]


def test_a_date_to_come_back_at_is_understood(binance: Rest, hands: Hands) -> None:
    binance.faults = first(1, Fault(429, b"{}", {"Retry-After": "Thu, 01 Jan 2026 00:00:09 GMT"}))
    assert asked_time(binance, hands).value == T0_MS
    assert hands.waits_s == [9.0]


def test_a_ban_that_outlasts_the_run_shuts_the_venue_and_is_not_waited_for(binance: Rest, hands: Hands) -> None:
    binance.faults = first(9, Fault(418, b"{}", {"Retry-After": "600"}))
    with pytest.raises(ShutError, match=r"HTTP 418, asked to wait 600 s") as error:
        asked_time(binance, hands)
    assert error.value.until == T0 + timedelta(seconds=600)
    assert (hands.waits_s, len(binance.asked)) == ([], 1)


def test_a_ban_without_a_time_is_a_ban(binance: Rest, hands: Hands) -> None:
    binance.faults = first(9, Fault(418, b"{}"))
    with pytest.raises(ShutError) as error:
        asked_time(binance, hands)
    assert error.value.until == T0 + timedelta(seconds=120)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500, b"oops"),
        Fault(200, HTML, {"Content-Type": "text/html"}),
        Fault(200, b'{"serverTime": 17'),
        Fault(200, b""),
        Fault(cut=True),
    ],
)
def test_what_may_pass_is_asked_again(binance: Rest, hands: Hands, fault: Fault) -> None:
    binance.faults = first(2, fault)
    assert asked_time(binance, hands).value == T0_MS
    assert len(binance.asked) == 3
    assert 0 < hands.waits_s[0] <= 0.5  # uniform in (0, 0.5 * 2 ** 0]
    assert 0 < hands.waits_s[1] <= 1.0  # uniform in (0, 0.5 * 2 ** 1]


def test_waits_come_from_the_dice_that_were_given(binance: Rest) -> None:
    waits = []
    for _ in range(2):
        binance.asked.clear()
        binance.faults = first(2, Fault(500, b""))
        hands = Hands()
        asked_time(binance, hands)
        waits.append(hands.waits_s)
    assert waits[0] == waits[1] != [0.5, 1.0]


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (Fault(500, b"oops"), "HTTP 500"),
        (Fault(200, HTML), "answer is no JSON but html"),
        (Fault(200, b'{"serverTime": 17'), "answer is no JSON but cut json"),
        (Fault(cut=True), "connection cut"),
    ],
)
def test_what_never_passes_is_given_up_after_as_many_attempts_as_allowed(
    binance: Rest, hands: Hands, fault: Fault, why: str
) -> None:
    binance.faults = first(99, fault)
    with pytest.raises(UnansweredError, match=why):
        asked_time(binance, hands)
    assert len(binance.asked) == 3


@pytest.mark.parametrize("status", [400, 403, 404, 451])
def test_a_refusal_is_not_asked_again(binance: Rest, hands: Hands, status: int) -> None:
    binance.faults = first(99, Fault(status, b'{"code":-1121,"msg":"Invalid symbol."}'))
    with pytest.raises(UnansweredError, match=rf"HTTP {status} .*Invalid symbol"):
        asked_time(binance, hands)
    assert len(binance.asked) == 1


def test_a_host_that_is_not_there_is_said_to_be_out_of_reach(hands: Hands) -> None:
    with exchange_at(no_port(), hands) as exchange, pytest.raises(UnansweredError, match=r"^host unreachable$"):
        ask(exchange, exchange.fetch_time, hands.patience(attempts_max=2))
    assert len(hands.waits_s) == 1


def test_a_hanging_answer_is_not_waited_for_longer_than_the_settings_say(binance: Rest, hands: Hands) -> None:
    binance.faults = first(99, Fault(hang_s=30))
    with pytest.raises(UnansweredError, match=r"no answer within 0\.2 s"):
        asked_time(binance, hands, hands.patience(timeout_s=0.2, attempts_max=2))
    assert len(binance.asked) == 2


def test_no_request_is_made_when_the_time_is_up_and_none_is_given_more_than_is_left(
    binance: Rest, hands: Hands
) -> None:
    patience = hands.patience(seconds_max=10)
    hands.on(10)
    with pytest.raises(UnansweredError, match="time is up"):
        asked_time(binance, hands, patience)
    assert binance.asked == []
    hands.elapsed_s = 9.7
    binance.faults = first(99, Fault(hang_s=30))
    with pytest.raises(UnansweredError, match=r"no answer within 0\.3 s"):
        asked_time(binance, hands, patience)


def test_an_answer_without_end_is_cut_off(binance: Rest, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.polling.wire.BYTES_MAX", 2**20)
    binance.faults = first(99, Fault(200, b"[" + b"1," * 2**20))
    with pytest.raises(UnansweredError, match="answer is longer than 1 MB"):
        asked_time(binance, hands, hands.patience(attempts_max=1))


def test_nothing_of_the_environment_is_read(binance: Rest, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, no_port())
    assert asked_time(binance, hands).value == T0_MS


def test_an_answer_of_another_shape_is_said_not_to_be_understood(binance: Rest, hands: Hands) -> None:
    binance.faults = first(99, Fault(200, b"[[1, 2], 3]"))
    with exchange_at(binance.url, hands) as exchange, pytest.raises(UnansweredError, match=r"not understood|refused"):
        ask(exchange, exchange.load_markets, hands.patience())
