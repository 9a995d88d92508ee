"""The closed loop: the guard sees what a feed had told, arms are paired, what is told follows from the numbers."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from features.bars import Market, Sources, bars_of
from guardrails.decide import RULES
from guardrails.ladder import ACTIONS
from guardrails.policy import Policy, parse_policy
from models.evaluation.decision import Costs
from models.simulator import Controls, VenueSettings, controls, simulate_controlled
from models.simulator.controls import free
from pipelines import cli
from pipelines import closed_loop as loop
from pipelines.closed_loop import GUARDED, MODEL, NONE, SERIES, START, STREAM, WITHOUT, Arm, ArmRun, Guard, Setting
from pipelines.closed_loop_kept import Kept, key_of
from pipelines.closed_loop_table import HARM, LoopSummary, paired, sentence, summary_of, usd, worked, worth
from pipelines.commands.shared import parse_seeds
from pipelines.errors import InputError
from pipelines.reporting.closed_loop_page import frontier, render

LACKING = WITHOUT + "price_band"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VENUE = VenueSettings(
    symbols=("AAA-PERP", "BBB-PERP"), accounts=80, step_s=60, volatility_day=0.3, leverage_median=30.0
)
QUIET = replace(VENUE, outage_rate_day=0.0, step_s=20)
SETTING = Setting(VENUE, hours=2, every_min=20)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return parse_policy(resources.files("guardrails").joinpath("policy.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(policy: Policy) -> list[list[ArmRun]]:
    """Two seeds, every arm."""
    return [found for _, found in loop.run_seeds(SETTING, policy, (1, 2))]


@pytest.fixture(scope="module")
def summary(policy: Policy, runs: list[list[ArmRun]]) -> LoopSummary:
    return summary_of(SETTING, policy, runs)


LEFT = (*(rule for rule in RULES if rule != "associated"), loop.THROTTLE)  # no lead is shipped


def fed(setting: Setting, hours: int, every_min: int = 5) -> list[tuple[dict[str, pl.DataFrame], datetime]]:
    """The rows a guard is given, and when."""
    given: list[tuple[dict[str, pl.DataFrame], datetime]] = []

    def steer(tables: dict[str, pl.DataFrame], now: datetime) -> Controls:
        given.append((tables, now))
        return free(len(setting.venue.symbols))

    list(simulate_controlled(setting.venue, 3, setting.start, hours, steer, every_min=every_min))
    return given


# policies without a rule


def test_the_actions_of_the_venue_are_those_of_the_guardrails() -> None:
    assert controls.ACTIONS == ACTIONS


def test_a_rule_that_follows_leads_has_an_arm_where_there_are_leads(policy: Policy) -> None:
    led = replace(policy, associated=replace(policy.associated, leads={"A": ("B",)}))
    assert loop.removable(led) == (*RULES, loop.THROTTLE)
    assert loop.without(led, "associated").associated.leads == {}


def test_every_rule_has_an_arm_without_it(policy: Policy) -> None:
    assert loop.removable(policy) == LEFT
    names = [arm.name for arm in loop.arms_of(policy, loop.volatility_score)]
    assert names == [NONE, GUARDED, MODEL, *(WITHOUT + rule for rule in LEFT)]


@pytest.mark.parametrize("rule", LEFT)
def test_a_policy_without_a_rule_differs_in_that_rule_alone_and_is_one_that_may_be_written(
    policy: Policy, rule: str
) -> None:
    loose = loop.without(policy, rule)
    assert (loose.inputs, loose.proposal, loose.version) == (policy.inputs, policy.proposal, policy.version)
    assert loose.sha256 != policy.sha256
    changed = {name for name in policy.breakers if loose.breakers[name] != policy.breakers[name]}
    changed |= {"caps"} if loose.caps != policy.caps else set()
    changed |= {loop.THROTTLE} if loose.throttle != policy.throttle else set()
    assert changed == ({rule} if rule in (*policy.breakers, loop.THROTTLE) else {"caps"})
    for section in (*loose.breakers.values(), loose.caps, loose.throttle):
        for spec in fields(section):
            value, bounds = getattr(section, spec.name), spec.metadata
            assert "low" not in bounds or "many" in bounds or bounds["low"] <= value <= bounds["high"], spec.name


def test_caps_and_the_throttle_bind_without_opening() -> None:
    bound = [rule for rule in LEFT if loop._always_binds(rule)]
    assert bound == ["leverage_cap", "exposure_cap", "throttle"]


def test_a_rule_that_is_none_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match="`rule` must be one of price_band"):
        loop.without(policy, "luck")


# what the guard sees


def test_bars_made_as_rows_come_are_the_bars_of_the_whole_but_for_what_was_not_known_yet() -> None:
    setting = Setting(QUIET, hours=1)
    given = fed(setting, 2)
    rows: dict[str, pl.DataFrame] = {}
    parts, since = [], setting.start
    for tables, now in given:
        rows = loop._kept(rows, tables, since)
        parts.append(loop.bars_known(rows, setting, since, now))
        since = now
    mine = pl.concat(parts).sort("symbol", "ts")
    tables = {name: pl.concat([one[name] for one, _ in given]) for name in (STREAM, *SERIES)}
    first = {STREAM: setting.start, "liquidations": setting.start}
    markets = {
        symbol: Market({STREAM: tables[STREAM].filter(pl.col("symbol") == symbol).lazy()}, first)
        for symbol in QUIET.symbols
    }
    sources = Sources(markets, {name: tables[name].lazy() for name in SERIES})
    theirs = bars_of(QUIET.venue, sources, setting.start, since).sort("symbol", "ts")
    slow = ["symbol", "ts", "mark", "index", "depth_bid_100bps_usd", "depth_age_s", "depth_unchanged_s", "oi_usd"]
    assert mine["mark"].null_count() == 0
    assert_frame_equal(mine.select(slow), theirs.select(slow))
    same = (mine["close"] == theirs["close"]).sum() / mine.height
    assert same > 0.9  # a print of the last milliseconds of a run is told too late for its bar


def test_rows_known_later_change_nothing() -> None:
    setting = Setting(QUIET, hours=1)
    [(tables, now), *_] = fed(setting, 1, every_min=30)
    cut = {name: tables[name].filter(pl.col("known_at") <= now) for name in (STREAM, *SERIES)}
    late = {
        name: tables[name].with_columns(pl.col("known_at") + timedelta(hours=1)) for name in ("marks", "book_depth")
    }
    worse = {name: pl.concat([rows, late[name]]) if name in late else rows for name, rows in cut.items()}
    told = [loop.bars_known(rows, setting, setting.start, now) for rows in (cut, worse)]
    assert_frame_equal(*told)


def test_until_controls_open_the_guard_only_listens_and_then_judges_all_it_heard(policy: Policy) -> None:
    setting = Setting(QUIET, hours=1)
    guard = Guard(setting, policy)
    for tables, now in fed(setting, 4):
        assert guard(tables, now).action == ("normal", "normal")
        assert guard.judged is None
    tables, _ = fed(setting, 5)[47]
    found = guard(tables, setting.opens)
    assert guard.judged == setting.opens
    assert guard.bars is not None
    assert guard.bars.height == 2 * loop.WARM_MIN
    assert (found.leverage_cap <= 50).all()


def test_limits_become_controls_in_the_order_of_the_symbols_the_effective_cap_before_the_hard_one() -> None:
    rows = [
        {"symbol": "B", "ts": START, "action": "halted", "leverage_cap": 9.0, "exposure_cap_usd": 1},
        {"symbol": "B", "ts": START + timedelta(minutes=1), "action": "cautious", "leverage_cap": 5.0,
         "exposure_cap_usd": 200},
        {"symbol": "A", "ts": START, "action": "normal", "leverage_cap": 20.0, "exposure_cap_usd": 100},
    ]  # fmt: skip
    limits = pl.DataFrame(rows)
    hard = loop.controls_of(limits, ("A", "B"))
    assert (hard.action, hard.leverage_cap.tolist()) == (("normal", "cautious"), [20.0, 5.0])
    assert (hard.exposure_cap_usd.tolist(), hard.throttle_usd_min.tolist()) == ([100.0, 200.0], [float("inf")] * 2)
    wished = limits.with_columns(leverage_cap_effective=pl.col("leverage_cap") / 2, throttle_usd_min=pl.lit(7))
    soft = loop.controls_of(wished, ("A", "B"))
    assert (soft.leverage_cap.tolist(), soft.throttle_usd_min.tolist()) == ([10.0, 2.5], [7.0, 7.0])


def test_the_plain_score_looks_back_only_and_alerts_when_volatility_has_doubled() -> None:
    moves = [0.001 * (-1) ** minute for minute in range(300)] + [0.003 * (-1) ** minute for minute in range(20)]
    close = pl.Series(moves).cum_sum().exp() * 100
    ts = [START + timedelta(minutes=minute) for minute in range(len(moves))]
    bars = pl.DataFrame({"venue": "v", "symbol": "A", "ts": ts, "close": close})
    scored = loop.volatility_score(bars)
    assert_frame_equal(loop.volatility_score(bars.head(310)), scored.head(310))
    assert scored["anomaly"][314] == pytest.approx(3.0)  # 15 returns of 0.003 against 240 of 0.001
    assert scored["alert"].sum() > 0
    assert scored.filter("alert")["ts"].min() > ts[300]  # type: ignore[operator]
    assert scored["anomaly"].head(100).null_count() == 100
    assert not scored["alert"].head(100).any()


# arms


def test_the_same_seed_gives_the_same_arms_in_one_process_or_in_two(policy: Policy, runs: list[list[ArmRun]]) -> None:
    arms = loop.arms_of(policy, None)[:2]
    again = {run.arm: run.numbers for run in loop.run_seed(SETTING, arms, 2)}
    assert again == {run.arm: run.numbers for run in runs[1] if run.arm in again}


def test_a_day_that_is_not_simulated_again_is_the_day_it_would_have_been(
    policy: Policy, runs: list[list[ArmRun]]
) -> None:
    """`price_halt` never opens here; without it the day is simulated after all."""
    arm = Arm(WITHOUT + "price_halt", loop.without(policy, "price_halt"), removed="price_halt")
    run, opened = loop.run_arm(SETTING, 1, arm)
    assert "price_halt" not in opened
    assert run.numbers == next(one.numbers for one in runs[0] if one.arm == arm.name)


def test_nobody_steering_restricts_nothing_and_guardrails_do(runs: list[list[ArmRun]]) -> None:
    assert max(seed[0].numbers["liquidated_usd"] for seed in runs) > 0
    assert max(seed[1].numbers["decisions"] for seed in runs) > 0
    for seed in runs:
        nobody, guarded = seed[0].numbers, seed[1].numbers
        assert all(nobody[name] == 0 for name in ("restricted_min", "paused_min", "refused_usd", "decisions"))
        assert guarded["refused_usd"] > 0
        assert guarded["paused_min"] <= guarded["restricted_min"] <= SETTING.hours * 60 * 2


def test_the_minutes_of_a_run_are_those_after_controls_open_and_hold_what_was_liquidated(
    runs: list[list[ArmRun]],
) -> None:
    minutes = runs[0][0].minutes
    assert minutes.height == SETTING.hours * 60 * 2
    assert minutes["ts"].min() == SETTING.opens + timedelta(minutes=1)
    assert minutes.null_count().sum_horizontal().item() == 0
    assert runs[0][0].numbers["liquidated_usd"] == pytest.approx(minutes["liquidated_usd"].sum())
    assert runs[0][0].numbers["worst_dip"] >= -(minutes["price"] / minutes["index"] - 1).min()  # type: ignore[operator]


# what is told


def test_paired_differences_are_taken_seed_by_seed() -> None:
    found = paired([1.0, 12.0, 103.0], [0.0, 10.0, 100.0])  # differences 1, 2, 3
    assert found.mean == 2.0
    assert 1.0 <= found.low < 2.0 < found.high <= 3.0
    assert paired([5.0], [3.0]) == paired([5.0], [3.0])
    assert (paired([5.0], [3.0]).low, paired([5.0], [3.0]).high) == (2.0, 2.0)


def test_the_worth_of_a_rule_is_what_its_absence_costs(summary: LoopSummary, runs: list[list[ArmRun]]) -> None:
    by_rule = {row.rule: row for row in summary.rules}
    assert set(by_rule) == {*LEFT, "the model's wish"}
    for rule in LEFT:
        pairs = [(next(run for run in seed if run.arm == WITHOUT + rule).numbers, seed[1].numbers) for seed in runs]
        for name in HARM:
            assert by_rule[rule].saved[name].mean == pytest.approx(sum(a[name] - b[name] for a, b in pairs) / 2)
        assert by_rule[rule].seeds == sum(a != b for a, b in pairs)
    assert by_rule["price_halt"].verdict == "changed nothing"


def numbers(seed: int, arm: str, liquidated: float, restricted: float) -> ArmRun:
    zero = dict.fromkeys((*HARM, "restricted_min", "paused_min", "refused_usd", "decisions", "tightened_min"), 0.0)
    return ArmRun(arm, seed, zero | {"liquidated_usd": liquidated, "restricted_min": restricted}, pl.DataFrame())


def told(policy: Policy, without_it: tuple[float, ...]) -> LoopSummary:
    """Of seeds with 40 liquidated while nobody steers, 10 under all rules, and `without_it` without a rule."""
    return summary_of(SETTING, policy, [
        [numbers(seed, NONE, 40.0, 0.0), numbers(seed, GUARDED, 10.0, 9.0), numbers(seed, LACKING, liquidated, 9.0)]
        for seed, liquidated in enumerate(without_it)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("without_it", "verdict"),
    [
        ((20.0, 30.0, 20.0, 20.0, 20.0), "saves"),
        ((20.0, 30.0, 20.0, 20.0), "too few seeds"),
        ((5.0, 5.0, 5.0, 5.0, 10.0), "harms"),
        ((20.0, 5.0, 10.0, 4.0, 17.0), "not told from zero"),
        ((10.39, 10.39, 10.39, 10.39, 10.39), "hardly matters"),  # below 1 % of 40
        ((10.41, 10.41, 10.41, 10.41, 10.41), "saves"),
        ((10.0, 10.0, 10.0, 10.0, 10.0), "changed nothing"),
    ],
)
def test_a_rule_is_judged_by_what_is_liquidated_without_it(
    policy: Policy, without_it: tuple[float, ...], verdict: str
) -> None:
    assert [row.verdict for row in told(policy, without_it).rules] == [verdict]


def test_the_model_is_valued_against_the_rules_alone_and_the_rules_against_nobody(policy: Policy) -> None:
    """30 and 20 less are liquidated, at 1 each: 30 - 9 and 20 - 18 dollars; the model saves 4 for 2 minutes more."""
    costs = Costs(restricted_min_usd=1.0, liquidated_share=1.0)
    found = summary_of(SETTING, policy, [
        [numbers(1, NONE, 40.0, 0.0), numbers(1, GUARDED, 10.0, 9.0), numbers(1, MODEL, 6.0, 11.0)],
        [numbers(2, NONE, 40.0, 0.0), numbers(2, GUARDED, 20.0, 18.0), numbers(2, MODEL, 16.0, 20.0)],
    ], costs)  # fmt: skip
    rules, model = found.decision_value
    assert [(row.arm, row.against) for row in (rules, model)] == [(GUARDED, NONE), (MODEL, GUARDED)]
    assert rules.value_usd.mean == pytest.approx(((30 - 9) + (20 - 18)) / 2)
    assert (rules.value_usd.low, rules.value_usd.high) == (2.0, 21.0)
    assert rules.break_even_min_usd == pytest.approx(25 / 13.5)
    assert (model.value_usd.mean, model.restricted_min.mean, model.break_even_min_usd) == (2.0, 2.0, 2.0)
    assert "model + guardrails is worth 2 USD a seed [2 USD, 2 USD] against guardrails" in worth(model)
    assert "decision value" in sentence(found)


def test_the_verdict_is_one_sentence_that_says_when_it_is_not_sure(policy: Policy) -> None:
    found = told(policy, (10.0,) * 5)
    assert found.verdict == (
        "With the guardrails 30 USD less is liquidated a seed (-75%); the deepest dip below the index is "
        "0.00% shallower."
    )
    assert "9 restricted minutes x symbols (3.8%)" in found.detail  # of 2 hours x 2 symbols
    assert "(-75%), of too few seeds to tell;" in told(policy, (10.0,) * 4).verdict


def test_the_summary_is_json_and_its_words_name_every_arm_and_rule(summary: LoopSummary) -> None:
    told = json.loads(json.dumps(asdict(summary)))
    assert told["seeds"] == [1, 2]
    assert len(told["runs"]) == 2 * len(summary.arms)
    words = sentence(summary)
    assert words.startswith("With the guardrails ")
    assert all(row.arm in words for row in summary.arms)
    assert all(row.rule in words for row in summary.rules)


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "-4", "1.5", "1,1", "1-9999"])
def test_seeds_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_seeds(text)


def test_dollars_are_told_in_the_unit_that_reads_best() -> None:
    assert [usd(value) for value in (9_999.0, 10_000.0, 999_999.0, 1e6)] == [
        "9,999 USD",
        "10 k USD",
        "1,000 k USD",
        "1.00 M USD",
    ]


# the page


def test_the_page_is_one_file_that_starts_with_the_verdict(summary: LoopSummary, runs: list[list[ArmRun]]) -> None:
    text = render(summary, *worked(runs))
    assert render(summary, *worked(runs)) == text
    assert (
        text.index("is liquidated a seed") < text.index('id="rules"') < text.index('id="arms"') < text.index('id="day"')
    )
    assert all(f">{row.rule}<" in text.replace("&#39;", "'") for row in summary.rules)
    assert "default-src 'none'" in text
    assert "NaN" not in text.split('id="figures"')[1].split("</script>")[0]


def test_arms_on_one_point_of_the_frontier_share_it(summary: LoopSummary) -> None:
    drawn = frontier(summary.arms, "liquidated_usd")["data"]
    named = [name for trace in drawn for name in trace["hovertext"][0].split("<br>")]
    assert sorted(named) == sorted(row.arm for row in summary.arms)
    assert len({(trace["x"][0], trace["y"][0]) for trace in drawn}) == len(drawn) < len(summary.arms)


def test_the_command_writes_the_page_and_prints_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "arms_of", lambda policy, _: (Arm(NONE), Arm(GUARDED, policy)))
    Path("cascadeguard.toml").write_text("[simulator]\naccounts = 40\nstep_s = 60\n", encoding="utf-8")
    assert cli.run(["loop", "--seeds", "4", "--days", "0.05", "--html", "page.html", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["seeds"], told["venue"]["accounts"], told["symbol_minutes"]) == ([4], 40, 60 * 4)
    assert "closed loop" in Path("page.html").read_text(encoding="utf-8")


def test_a_finished_seed_is_kept_to_the_bit_and_not_run_again(
    tmp_path: Path, policy: Policy, runs: list[list[ArmRun]]
) -> None:
    def never(_: int) -> list[ArmRun]:
        raise AssertionError("it was run again")

    kept = Kept(tmp_path / "new" / "folder", key_of(SETTING, policy, None))
    for work in (lambda seed: runs[seed - 1], never):
        for seed, expected in enumerate(runs, start=1):
            found = kept.seed(work, seed)
            assert [(run.arm, run.seed, run.numbers) for run in found] == [
                (run.arm, run.seed, run.numbers) for run in expected
            ]
            for one, other in zip(found, expected, strict=True):
                assert_frame_equal(one.minutes, other.minutes)
    assert len(list(kept.folder.iterdir())) == len(runs)


def test_what_another_setting_policy_score_or_code_found_is_not_taken(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = {
        key_of(SETTING, policy, None),
        key_of(SETTING, policy, loop.volatility_score),
        key_of(replace(SETTING, hours=3), policy, None),
        key_of(replace(SETTING, venue=replace(VENUE, accounts=81)), policy, None),
        key_of(SETTING, loop.without(policy, "price_band"), None),
    }
    monkeypatch.setattr("pipelines.closed_loop_kept.code_sha256", lambda: "other")
    assert len(of | {key_of(SETTING, policy, None)}) == 6


def test_a_seed_that_fails_is_not_kept_and_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    def failing(seed: int) -> list[ArmRun]:
        raise ValueError(f"seed {seed}")

    kept = Kept(tmp_path, "key")
    with pytest.raises(ValueError, match="seed 3"):
        kept.seed(failing, 3)
    assert not kept.path(3).exists()
    kept.path(3).write_bytes(b"PAR1 cut short")
    with pytest.raises(InputError, match=r"not a finished seed of `loop`.*delete it"):
        kept.seed(failing, 3)
    with pytest.raises(InputError, match=r"seeds cannot be kept .*directory"):
        Kept(kept.path(3) / "below", "key").seed(failing, 1)


def test_a_run_that_was_cut_off_goes_on_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "arms_of", lambda policy, _: (Arm(NONE), Arm(GUARDED, policy)))
    Path("cascadeguard.toml").write_text("[simulator]\naccounts = 20\nstep_s = 60\n", encoding="utf-8")
    command = ["loop", "--days", "0.05", "--keep", "kept", "--json"]
    assert cli.run([*command, "--seeds", "4"]) == 0
    alone = json.loads(capsys.readouterr().out)
    simulated: list[int] = []
    run_arm = loop.run_arm
    monkeypatch.setattr(loop, "run_arm", lambda *args: simulated.append(args[1]) or run_arm(*args))
    assert cli.run([*command, "--seeds", "4-5"]) == 0
    both = json.loads(capsys.readouterr().out)
    assert set(simulated) == {5}
    assert [run for run in both["runs"] if run["seed"] == 4] == alone["runs"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seeds", "x"), "seeds cannot be read"),
        (("--days", "0"), "--days must be from an hour"),
        (("--days", "nan"), "--days must be from an hour"),
        (("--policy", "none.toml"), "the policy cannot be read"),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["loop", *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def opened(
    summary: LoopSummary, runs: list[list[ArmRun]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, list[str]]]:
    if CHROMIUM is None:
        pytest.skip("no chromium binary on the search path")
    from playwright.sync_api import sync_playwright

    path = tmp_path_factory.mktemp("loop") / "page.html"
    path.write_text(render(summary, *worked(runs)), encoding="utf-8")
    complaints: list[str] = []
    with sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-drawn]", timeout=30_000)
        yield tab, complaints
        browser.close()


@pytest.mark.service
def test_the_page_opens_alone_and_draws_every_plot(opened: tuple[Any, list[str]]) -> None:
    tab, complaints = opened
    assert complaints == []
    drawn = tab.evaluate("[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.trace').length)")
    assert len(drawn) == 3
    assert min(drawn) >= 2
    assert drawn[2] == 5  # three lines, two rows of bars; the ribbon is a heatmap
    assert tab.evaluate("document.querySelectorAll('.plot .heatmaplayer image').length") == 1


@pytest.mark.service
@pytest.mark.parametrize("width_px", [1280, 420])
def test_the_page_fits_the_screen(opened: tuple[Any, list[str]], width_px: int) -> None:
    tab, _ = opened
    tab.set_viewport_size({"width": width_px, "height": 900})
    tab.wait_for_timeout(400)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width_px
