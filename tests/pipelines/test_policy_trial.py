"""What a new policy would have changed over stored history: counted exactly, and without writing."""

import hashlib
import json
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from guardrails.ladder import ACTIONS
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.guard import guard_venue
from pipelines.lake import Lake
from pipelines.policies import read_policy
from pipelines.policy_trial import COUNTS, headline, trial_page, trial_sentence, try_policy
from pipelines.times import Interval
from tests.pipelines.conftest import World
from tests.pipelines.policy_worlds import SHIPPED, T0, folder, stored, text
from tests.pipelines.test_cli import cascadeguard, refused


def changed(path: Path, *changes: tuple[str, str]) -> Any:
    path.write_text(text(2, "2026-01-01T00:00:00Z", *changes))
    return read_policy(path)


def in_force(folder_: Path) -> Config:
    """Settings with the shipped policy, for the venue of `stored`."""
    path = folder_ / "in_force.toml"
    path.write_text(text())
    return Config(policy=path)


def digest(folder_: Path) -> str:
    names = sorted(path for path in folder_.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(path).encode() + path.read_bytes() for path in names)).hexdigest()


def span(start: int, end: int) -> Interval:
    return Interval(T0 + timedelta(minutes=start), T0 + timedelta(minutes=end))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A: 4.5 % down at 00:00 + 300 min, 6 % down at 400. B: calm. Both end after 500 minutes."""
    return stored(tmp_path / "lake", 500, {"A": {300: 95.5, 400: 94.0}, "B": {}})


def test_a_tighter_band_trips_earlier_and_oftener_and_the_minutes_are_counted(lake: Lake, tmp_path: Path) -> None:
    new = changed(tmp_path / "new.toml", ("enter = 0.05 ", "enter = 0.04 "))
    found = try_policy(lake, "v", span(260, 500), in_force(tmp_path), new)
    # Before: 6 % at 400 opens; 401 is clean (100 against a mean of 98.8: 1.2 %), so that 10 clean minutes end with 410
    # and 5 more with 415: reduce only from 400 to 409, cautious from 410 to 414. After: the same from 300 on, too.
    (trips,) = [row for row in found.trips if row["rule"] == "price_band"]
    assert trips == {
        "rule": "price_band", "symbol": "A", "trips_before": 1, "trips_after": 2,
        "first_before": "2025-06-01T06:40Z", "first_after": "2025-06-01T05:00Z", "first_later_min": -100,
    }  # fmt: skip
    a, b = found.actions
    assert [(a[f"{action}_before"], a[f"{action}_after"]) for action in ACTIONS] == [
        (225, 210),
        (5, 10),
        (10, 20),
        (0, 0),
    ]
    assert a["minutes"] == b["minutes"] == 240
    # The 15 minutes from 300 on at the floor of 2: an hour's 4.6 %, then 6.5 % with the way back, allow
    # 1 / (4 x 6.5 %), down to the step 3, without an open breaker.
    assert (a["leverage_tighter_min"], a["leverage_looser_min"]) == (15, 0)
    assert {name: b[name] for name in COUNTS} == dict.fromkeys(COUNTS, 0)
    assert not found.same
    assert found.minutes == 480
    assert headline(found) == (
        "trips 1 -> 2; reduce_only 10 -> 20 min; cautious 5 -> 10 min; normal 465 -> 450 min; "
        "leverage cap tighter in 15 min"
    )


def test_a_looser_policy_is_told_as_such(lake: Lake, tmp_path: Path) -> None:
    changes = (("enter = 0.05 ", "enter = 0.07 "), ("exposure_depth_share = 0.5 ", "exposure_depth_share = 1.0 "))
    found = try_policy(lake, "v", span(260, 500), in_force(tmp_path), changed(tmp_path / "new.toml", *changes))
    (trips,) = [row for row in found.trips if row["rule"] == "price_band"]
    assert (trips["trips_before"], trips["trips_after"], trips["first_after"], trips["first_later_min"]) == (
        1,
        0,
        None,
        None,
    )
    a, b = found.actions
    # At 400 an hour's volatility is 6.2 %, so 1 / (4 x 6.2 %) allows 3 where the open breaker allows 2; from 401 on,
    # with the way back of 6.2 % too, it is 8.7 %, and the cap is 2 with and without the breaker.
    assert (a["leverage_tighter_min"], a["leverage_looser_min"]) == (0, 1)
    # half of 40 M is 20 M; all of it 40 M, so the ceiling of 25 M
    assert (b["exposure_tighter_min"], b["exposure_looser_min"]) == (0, 240)
    said = trial_sentence(found)
    assert re.search(r"price_band +A +1 -> 0 +none any more, was at 2025-06-01T06:40Z", said)
    assert re.search(r"\n  A +225 -> 240 +5 -> 0 +10 -> 0 +looser in 1 +looser in 240\n", said)


def test_the_policy_in_force_against_itself_changes_nothing(lake: Lake, tmp_path: Path) -> None:
    found = try_policy(lake, "v", span(260, 500), in_force(tmp_path), read_policy(tmp_path / "in_force.toml"))
    assert found.same
    assert [row["trips_before"] for row in found.trips] == [1]  # there was something to compare
    assert headline(found) == "nothing would have changed"
    assert "2 of 2 symbols are the same in every minute" in trial_sentence(found)
    assert found.settings == ()


def test_one_side_is_what_guard_decides(world: World) -> None:
    """A trial over what was guarded counts the trips and minutes that the lake's own tables hold."""
    found = try_policy(world.lake, world.venue, world.interval, world.config, read_policy(SHIPPED))
    assert found.same
    opened = world.lake.scan("decisions").filter(
        pl.col("state_after") == "open", pl.col("state_before").ne_missing("open")
    )
    by_rule = opened.group_by("rule", "entity").len().collect()
    assert {(row["rule"], row["symbol"]): row["trips_before"] for row in found.trips} == {
        (rule, symbol): count for rule, symbol, count in by_rule.iter_rows()
    }
    assert found.trips
    held = world.lake.scan("limits").group_by("symbol", "action").len().collect()
    for symbol, action, count in held.iter_rows():
        (row,) = [row for row in found.actions if row["symbol"] == symbol]
        assert row[f"{action}_before"] == row[f"{action}_after"] == count
    over = world.lake.scan("account_decisions").group_by("rule").len().sort("rule").collect()
    assert [(row["rule"], row["rows_before"]) for row in found.accounts] == list(over.iter_rows())


def test_a_trial_that_begins_later_goes_on_from_the_state_the_lake_holds(tmp_path: Path) -> None:
    """A halt that nobody has reset is older than all bars that a run looks back to."""
    lake = stored(tmp_path / "lake", 900, {"A": {300: 75.0}})
    guard_venue(lake, "v", span(260, 800), in_force(tmp_path))
    found = try_policy(lake, "v", span(800, 900), in_force(tmp_path), read_policy(tmp_path / "in_force.toml"))
    (row,) = found.actions
    assert (
        [row[f"{action}_before"] for action in ACTIONS]
        == [row[f"{action}_after"] for action in ACTIONS]
        == [0, 0, 0, 100]
    )
    assert found.trips == ()


def test_days_are_judged_one_by_one_with_the_state_carried_over_midnight(tmp_path: Path) -> None:
    """The halt is ten hours old at midnight, and nobody resets it."""
    lake = stored(tmp_path / "lake", 950, {"A": {300: 75.0}}, first := T0 - timedelta(minutes=900))
    interval = Interval(first + timedelta(minutes=260), first + timedelta(minutes=950))
    (row,) = try_policy(lake, "v", interval, in_force(tmp_path), read_policy(tmp_path / "in_force.toml")).actions
    # normal from 261 to 299, halted from 300 to 950
    assert [row[f"{action}_before"] for action in ACTIONS] == [39, 0, 0, 651]


def test_an_action_that_a_new_policy_makes_stricter_is_no_trip(lake: Lake, tmp_path: Path) -> None:
    """The breaker that opened at 06:40 under the first policy is halted by the second from 06:45 on: open before."""
    halting = ('action = "reduce_only"\nprobation_action = "cautious"\nmissing_action = "cautious"\n'
               "missing_hold_min = 5      # min of inputs present")  # fmt: skip
    harder = text(2, "2025-06-01T06:45:00Z", (halting, halting.replace("reduce_only", "halted", 1)),
                  ('one reference window\nreset = "timer"', 'one reference window\nreset = "person"'))  # fmt: skip
    config = Config(policy=folder(tmp_path / "p", text(1), harder))
    found = try_policy(lake, "v", span(260, 500), config, read_policy(tmp_path / "p" / "1.toml"))
    assert [(row["trips_before"], row["trips_after"]) for row in found.trips] == [(1, 1)]
    # 06:40 to 06:44 reduce only, halted from 06:45 to the end at 08:20; without a change as ever
    assert (found.actions[0]["halted_before"], found.actions[0]["halted_after"]) == (96, 0)


def test_each_policy_in_force_is_held_against_the_new_one_in_its_own_minutes(lake: Lake, tmp_path: Path) -> None:
    path = folder(tmp_path / "p", text(1), text(2, "2025-06-01T05:30:00Z", ("enter = 0.05 ", "enter = 0.07 ")))
    new = changed(tmp_path / "new.toml", ("enter = 0.05 ", "enter = 0.04 "))
    found = try_policy(lake, "v", span(260, 500), Config(policy=path), new)
    (trips,) = [row for row in found.trips if row["rule"] == "price_band"]
    # 4.5 % at 300 does not trip 5 %, 6 % at 400 does not trip 7 %
    assert (trips["trips_before"], trips["trips_after"], trips["first_before"]) == (0, 2, None)
    assert [one["version"] for one in found.before] == [1, 2]
    assert found.notes == (
        "2 policies are in force over this time; the new one is held against each in its own minutes",
        "the new policy is effective from 2026-01-01T00:00Z; the trial lets it judge every minute",
    )
    assert re.search(r"price_band +A +0 -> 2 +new, at 2025-06-01T05:00Z", trial_sentence(found))


def test_a_trial_without_bars_or_before_the_first_policy_is_refused(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are no bars: v 2025-06-01T10:00Z\.\.2025-06-01T11:00Z; run"):
        try_policy(lake, "v", span(600, 660), in_force(tmp_path), read_policy(tmp_path / "in_force.toml"))
    (tmp_path / "late.toml").write_text(text(1, "2026-01-01T00:00:00Z"))
    with pytest.raises(InputError, match="no policy is in force at 2025-06-01T04:21Z"):
        try_policy(lake, "v", span(260, 500), Config(policy=tmp_path / "late.toml"), read_policy(SHIPPED))


def test_the_command_tells_it_as_text_json_and_page_and_writes_nothing_to_the_lake(lake: Lake, tmp_path: Path) -> None:
    changed(tmp_path / "new.toml", ("enter = 0.05 ", "enter = 0.04 "))
    before = digest(lake.root)
    given = (
        "policy",
        "trial",
        "new.toml",
        "--lake",
        "lake",
        "--from",
        "2025-06-01T04:20Z",
        "--to",
        "2025-06-01T08:20Z",
    )
    in_force(tmp_path)
    (tmp_path / "cascadeguard.toml").write_text('policy = "in_force.toml"\n')
    done = cascadeguard(*given, "--html", "trial.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "price_band opens at 4 % instead of 5 %: tighter, it trips earlier" in done.stdout
    assert re.search(r"price_band +A +1 -> 2 +100 min earlier, at 2025-06-01T05:00Z", done.stdout)
    assert "1 of 2 symbols are the same in every minute" in done.stdout
    (venue,) = json.loads(cascadeguard(*given, "--json", cwd=tmp_path).stdout)["venues"]
    assert set(venue) == {"venue", "interval", "before", "after", "minutes", "trips", "actions", "accounts", "settings",
                          "notes"}  # fmt: skip
    assert venue["trips"][0]["first_later_min"] == -100
    assert digest(lake.root) == before
    page = (tmp_path / "trial.html").read_text()
    assert page.count("<section") == page.count("</section>") == 4
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert all(word in page for word in ("v: trips 1 -&gt; 2", "100 min earlier", "it trips earlier", "10, 20"))
    refused(cascadeguard("policy", "trial", "none.toml", "--lake", "lake", cwd=tmp_path), "policy cannot be read")
    refused(cascadeguard(*given, "--venue", "w", cwd=tmp_path), "w")


def test_the_page_of_the_same_trial_is_the_same_bytes_and_escapes_names(lake: Lake, tmp_path: Path) -> None:
    found = try_policy(lake, "v", span(260, 500), in_force(tmp_path), read_policy(tmp_path / "in_force.toml"))
    assert trial_page([found]) == trial_page([found])
    row = found.actions[0] | {"symbol": "<b>"}
    odd = replace(found, actions=(row,))
    assert "&lt;b&gt;" in trial_page([odd])
    assert "Accounts over their caps" not in trial_page([found])
    over = {"rule": "leverage_cap", "rows_before": 76_423, "rows_after": 107_329}
    told = trial_page([replace(found, accounts=(over,))])
    assert re.search(
        r'class="moved"><td>leverage_cap</td><td class="num">76,423</td><td class="num">107,329</td>', told
    )
    assert "<b>" not in trial_page([odd])
