"""Venue profiles: every constant has a source, files are validated whole, versions have their day."""

import re
import tomllib
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import get_args

import pytest

from features.mechanics import paths
from features.mechanics.insurance import ADL_RULES
from features.mechanics.margin import Tier
from features.mechanics.marks import RULES
from features.mechanics.profile import Profile
from pipelines.errors import InputError
from pipelines.profiles import (
    MarkSection,
    Version,
    constants,
    in_force,
    load_profile,
    load_versions,
    parse_profile,
    shipped_names,
    template_text,
)

FOLDER = resources.files("pipelines").joinpath("profile_files")
NAMES = (*shipped_names(), "template")
MINIMAL = """
name = "tiny"
[[version]]
effective_from = 2025-01-01T00:00:00Z
[version.mark]
rule = "last"
[version.path]
kind = "market"
[version.fees]
taker = 0.0005
liquidation = 0.01
[version.tiers]
BTC = [{ notional_usd_max = 1_000, rate = 0.01 }, { rate = 0.02 }]
[version.sources]
mark = "rule book, section 1"
path = "rule book, section 2"
fees = "fee schedule of 2025"
tiers = "assumed: made up for a test"
"""


def text_of(name: str) -> str:
    return FOLDER.joinpath(f"{name}.toml").read_text(encoding="utf-8")


def maintenance(profile: Profile, symbol: str, notional: float) -> float:
    return max(notional * tier.rate - tier.deduction_usd for tier in profile.tiers_of(symbol))


def test_six_venues_and_a_template_are_shipped() -> None:
    assert NAMES == ("binance-usdm", "derive", "dydx", "hyperliquid", "synthetix", "vega", "template")


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_profile_is_valid(name: str) -> None:
    for profile in parse_profile(name, text_of(name)):
        assert profile.effective_from.tzinfo is UTC
        paths.params_of(profile.path)
        assert profile.tiers_of("ANYTHING-PERP")  # "*"


@pytest.mark.parametrize("name", NAMES)
def test_every_constant_has_a_source(name: str) -> None:
    for version in tomllib.loads(text_of(name))["version"]:
        sources = version["sources"]
        for constant in constants(version):
            assert any(constant == known or constant.startswith(f"{known}.") for known in sources), constant
        for text in sources.values():
            assert len(text.removeprefix("assumed:").strip()) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_that_loses_a_source_is_refused(name: str) -> None:
    lines = text_of(name).splitlines()
    start = lines.index("[version.sources]") + 1
    for row in range(start, len(lines)):
        known = re.match(r'"([^"]+)"', lines[row])
        if known is not None:
            with pytest.raises(InputError, match=rf"{re.escape(known[1])}.* has no source"):
                parse_profile(name, "\n".join(lines[:row] + lines[row + 1 :]))


def test_binance_brackets_give_the_twelve_deductions() -> None:
    tiers = load_profile("binance-usdm").tiers_of("BTCUSDT")
    deductions = [0, 50, 950, 11_450, 131_450, 481_450, 2_981_450, 14_481_450, 26_481_450, 41_481_450, 121_481_450]
    assert [tier.deduction_usd for tier in tiers] == pytest.approx([*deductions, 421_481_450])


def test_hyperliquid_asks_3_125_000_for_200_million_of_btc() -> None:
    # 200M * .025 - 150M * (.025 - .0125)
    assert maintenance(load_profile("hyperliquid"), "BTC", 200e6) == pytest.approx(3_125_000)


@pytest.mark.parametrize(
    ("name", "kind", "rule", "days"),
    [
        ("binance-usdm", "market", "median", 365.0),
        ("hyperliquid", "share_first", "index_ema", 365.0),
        ("dydx", "gradual", "index", 365.0),
        ("derive", "auction", "index", 365.0),
        ("synthetix", "velocity", "index", 365.0),
        ("vega", "timed", "median", 365.25),
    ],
)
def test_a_venue_has_its_path_and_mark_rule(name: str, kind: str, rule: str, days: float) -> None:
    profile = load_profile(name)
    assert (profile.name, profile.path.kind, profile.mark.rule, profile.year_days) == (name, kind, rule, days)


def test_the_template_explains_every_path_rule_and_parameter() -> None:
    text = template_text()
    words = [kind.name for kind in paths.KINDS] + [param.name for kind in paths.KINDS for param in kind.params]
    words += [*RULES, *ADL_RULES, *Version.model_fields, *MarkSection.model_fields]
    assert [word for word in words if re.search(rf"\b{word}\b", text) is None] == []


def test_the_choices_of_a_file_are_those_of_the_mechanics() -> None:
    assert get_args(MarkSection.model_fields["rule"].annotation) == RULES
    assert get_args(Version.model_fields["adl"].annotation) == ADL_RULES


def test_tiers_are_found_by_symbol_then_base_then_for_every_other() -> None:
    text = MINIMAL.replace("BTC = [", '"BTC-X" = [{ rate = 0.5 }]\n"*" = [{ rate = 0.9 }]\nBTC = [')
    (profile,) = parse_profile("tiny", text)
    # continuous at 1 000: 1 000 * (.02 - .01) = 10
    assert profile.tiers_of("BTCUSDT") == (Tier(0.01, 0.0), Tier(0.02, 10.0))
    assert profile.tiers_of("BTC-X") == (Tier(0.5, 0.0),)
    assert profile.tiers_of("ETH-PERP") == (Tier(0.9, 0.0),)
    with pytest.raises(KeyError):
        parse_profile("tiny", MINIMAL)[0].tiers_of("ETH")


def test_the_version_in_force_is_the_last_that_has_begun() -> None:
    later = (
        MINIMAL.split("\n", 2)[2]
        .replace("2025-01-01T00:00:00Z", "2025-06-01T02:00:00+02:00")
        .replace("taker = 0.0005", "taker = 0.0007")
    )
    versions = parse_profile("tiny", MINIMAL + later)
    assert [v.fees.taker for v in versions] == [0.0005, 0.0007]
    midnight = datetime(2025, 6, 1, tzinfo=UTC)
    assert in_force(versions, midnight).fees.taker == 0.0007
    assert in_force(versions, midnight.replace(month=5)).fees.taker == 0.0005
    assert in_force(versions).fees.taker == 0.0007
    with pytest.raises(InputError, match="begins 2025-01-01"):
        in_force(versions, midnight.replace(year=2024))


def test_versions_in_the_wrong_order_are_refused() -> None:
    again = MINIMAL.split("\n", 2)[2]
    with pytest.raises(InputError, match="must rise from version to version"):
        parse_profile("tiny", MINIMAL + again)


def test_every_fault_of_a_file_is_told_at_once() -> None:
    faulty = """
    name = "bad"
    [[version]]
    effective_from = 2025-01-01T00:00:00Z
    buffer = 0.5
    speed = 3
    [version.mark]
    rule = "guess"
    [version.path]
    kind = "market"
    [version.fees]
    taker = 2
    [version.tiers]
    BTC = [{ rate = 1.5 }]
    [version.sources]
    """
    with pytest.raises(InputError) as told:
        parse_profile("bad.toml", faulty)
    for name in ("`speed`", "`mark.rule`", "`fees.taker`", "`fees.liquidation`", "`tiers.BTC.0.rate`", "bad.toml"):
        assert name in str(told.value)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('rule = "last"', 'rule = "index_ema"', "`mark.ema_s` must be positive"),
        ('rule = "last"', 'rule = "median"', "`mark.basis_window_s` must be positive"),
        ('kind = "market"', 'kind = "gradual"', "`path`: `share` is missing"),
        ('kind = "market"', 'kind = "fire_sale"', "`kind` must be one of"),
        ('kind = "market"', 'kind = "market"\nparams = { share = 0.1 }', "`share` is not a parameter of market"),
        ("rate = 0.02 }", "rate = 0.005 }", "`rate` must not fall"),
        ("notional_usd_max = 1_000, ", "", "only the last may, and must, be missing"),
        ("{ rate = 0.02 }", "{ notional_usd_max = 9_000, rate = 0.02 }", "only the last may, and must, be missing"),
        ('fees = "fee schedule of 2025"', "", "`fees.taker` has no source"),
        ('"rule book, section 1"', '"assumed:"', "`sources.mark` must name a document"),
        ('mark = "rule', 'buffer = "rule book, section 9"\nmark = "rule', "'buffer' is no constant of this version"),
        (
            'kind = "market"',
            'kind = "auction"\nparams = { buffer = 0.1, cutoff = 0.8, fast_s = 1, slow_s = 1 }',
            "`buffer` must be what the auction restores",
        ),
    ],
)
def test_a_fault_is_named(old: str, new: str, fault: str) -> None:
    assert old in MINIMAL
    with pytest.raises(InputError, match=re.escape(fault)):
        parse_profile("tiny.toml", MINIMAL.replace(old, new))


def test_a_file_of_ones_own_is_read_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(template_text(), encoding="utf-8")
    assert load_profile(str(file)).name == "my-venue"
    assert len(load_versions(str(file))) == 1


def test_an_unknown_name_a_missing_file_and_a_broken_one_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown venue profile: nowhere; use one of binance-usdm"):
        load_profile("nowhere")
    with pytest.raises(InputError, match="cannot be read"):
        load_profile(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ", encoding="utf-8")
    with pytest.raises(InputError, match="not TOML"):
        load_profile(str(broken))
    with pytest.raises(InputError, match="nothing else"):
        parse_profile("x", 'name = "x"\ncolour = "red"\n[[version]]\n')
