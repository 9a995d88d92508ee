"""Messages that read in a minute, whatever the names in them say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.alerting.alert import CLEARED, OPENED, PASSED, REPEAT, SEVERITIES, WORSE, Alert, News, news_of, short_id
from pipelines.alerting.message import SHORT_MAX, TEXT_MAX, TITLE_MAX, messages
from pipelines.alerting.plain import name, plain
from tests.pipelines.alerting.letters import alert, at

HOSTILE = (
    "<img src=x onerror=1>*bold*_it_ [click](http://evil.example) @everyone `code`\n\nCRITICAL testex: all halted\u202e"
)
ACTIVE = set("<>*`[]@|~\\\n\r\u202e")


def news(one: Alert, event: str = OPENED) -> News:
    return news_of(event, at(60), one.severity, one, 0)


def many(count: int, rule: str = "price_band", **more: object) -> list[News]:
    return [news(alert(f"breaker/testex/S{n:03}/{rule}", **more)) for n in range(count)]  # type: ignore[arg-type]


def test_one_breaker_reads_in_a_minute() -> None:
    (made,) = messages([news(alert())], "desk")
    assert made.title == "WARNING testex: AAA: reduce only by price band, 5 min"
    assert made.text == "\n".join(
        [
            "WARNING testex: AAA: reduce only by price band, 5 min",
            "",
            "AAA: reduce only by price band, 5 min",
            "  since 2025-10-10 00:10Z",
            "  seen     price moved -7.2 %",
            "  limit    band is 5.0 %",
            "  allowed  new positions are paused",
            "  why      rule price band",
            "  clears   after 10 min",
            "  look     cascadeguard explain abc",
            f"  quiet    cascadeguard alerts ack {short_id('breaker/testex/AAA/price_band')} --by NAME",
        ]
    )
    assert made.short == "\n".join(
        [
            "AAA: reduce only by price band, 5 min, since 2025-10-10 00:10Z; price moved -7.2 %; "
            "new positions are paused",
            "cascadeguard explain abc",
        ]
    )


def test_seven_symbols_under_one_rule_are_one_message_and_one_paragraph() -> None:
    (made,) = messages(many(7), "desk")
    assert made.title == "WARNING testex: 7 symbols: reduce only by price band, 5 min"
    assert made.text.count("reduce only by price band") == 2  # the title and one headline
    assert [f"S{n:03}, since" in made.text for n in range(7)] == [True] * 5 + [False] * 2
    assert "and 2 more" in made.text
    assert "alerts ack breaker/testex/ --by NAME" in made.text
    assert "(S000, S001, S002, S003, S004, S005 and 1 more)" in made.short


def test_a_crash_is_a_handful_of_messages_each_of_them_short() -> None:
    crash = [*many(200), *many(200, "depth_collapse"), *many(200, "price_halt", severity=2, state="halted")]
    made = messages(crash, "desk")
    assert [one.title.split()[0] for one in made] == ["CRITICAL", "WARNING"]
    assert all(len(one.text) <= TEXT_MAX and len(one.short) <= SHORT_MAX for one in made)
    assert "and 195 more" in made[0].text
    assert {one.id for part in made for one in part.news} == {one.id for one in crash}


def test_what_is_not_told_whole_is_named() -> None:
    rules = [f"rule_{n:02}" for n in range(20)]
    (made,) = messages([one for rule in rules for one in many(2, rule)], "desk")
    assert all(f"  2 symbols: reduce only by rule {n:02}" in made.text for n in range(3, 15))
    assert "  and 5 more\n  look     cascadeguard alerts list" in made.text
    assert made.text.count("allowed") == 3
    assert "and 17 more findings: cascadeguard alerts list" in made.short


@pytest.mark.parametrize(("event", "words"), [(WORSE, "worse: "), (REPEAT, "still: "), (OPENED, "")])
def test_the_title_says_what_kind_of_news_it_is(event: str, words: str) -> None:
    assert messages([news(alert(), event)], "desk")[0].title.startswith(f"WARNING testex: {words}AAA")


@pytest.mark.parametrize("event", [CLEARED, PASSED])
def test_good_news_is_quiet_and_says_from_when_to_when(event: str) -> None:
    (made,) = messages([news(alert(severity=2, until=40), event)], "desk")
    assert made.title.startswith("INFO testex: ")
    assert "from 2025-10-10 00:10Z to 00:40Z" in made.text
    assert "alerts ack" not in made.text


def test_different_venues_severities_and_sorts_of_news_are_different_messages() -> None:
    other, key_2 = alert("breaker/other/AAA/price_band"), "breaker/testex/BBB/price_band"
    made = messages([news(alert()), news(other), news(alert(key_2, severity=2)), news(alert(), REPEAT)], "desk")
    assert len({one.id for one in made}) == len(made) == 4
    assert messages([news(alert())], "desk")[0].id != messages([news(alert())], "pager")[0].id


def test_a_hostile_name_writes_no_markup_no_link_no_mention_and_no_line() -> None:
    bad = alert(f"breaker/testex/{HOSTILE.replace('/', '')}/price_band", seen=HOSTILE, why=HOSTILE, clears=HOSTILE)
    (made,) = messages([news(bad)], "desk")
    (clean,) = messages([news(alert())], "desk")
    for text, harmless in ((made.title, clean.title), (made.text, clean.text), (made.short, clean.short)):
        assert not ACTIVE.intersection(text.replace("\n", ""))
        assert "http://" not in text
        assert text.count("\n") == harmless.count("\n")


@given(st.text(max_size=400), st.integers(2, 60))
def test_plain_text_is_one_bounded_line_without_markup(text: str, most: int) -> None:
    made = plain(text, most)
    assert not ACTIVE.intersection(made)
    assert len(made) <= most
    assert made == " ".join(made.split())
    assert "://" not in made


@given(st.text(alphabet=st.characters(whitelist_categories=("Lu", "Ll", "Nd")), min_size=1, max_size=20))
def test_an_ordinary_name_stays_as_it_is(symbol: str) -> None:
    assert name(f"{symbol}_{symbol}-PERP.x/USD:Y") == plain(f"{symbol}_{symbol}-PERP.x/USD:Y", 40)
    assert name(symbol) == symbol


@given(st.lists(st.tuples(st.text(min_size=1, max_size=60), st.sampled_from([0, 1, 2])), min_size=1, max_size=40))
def test_no_message_is_longer_than_its_bound_and_no_news_is_lost(found: list[tuple[str, int]]) -> None:
    told = [
        news(alert(f"breaker/testex/{symbol.replace('/', '-')}/price_band", severity=severity, seen=symbol * 30))
        for symbol, severity in found
    ]
    made = messages(told, "desk")
    assert sorted(one.id for part in made for one in part.news) == sorted(one.id for one in told)
    for one in made:
        assert len(one.title) <= TITLE_MAX
        assert len(one.text) <= TEXT_MAX
        assert one.title.startswith(SEVERITIES[one.severity].upper())
