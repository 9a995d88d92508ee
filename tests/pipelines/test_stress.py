"""`stress` as a user meets it: csv files written by hand, one JSON object back, numbers to be checked on paper."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import InputError
from pipelines.stress import PLAIN, drops_of, parse_shock
from pipelines.stress_files import Files, read_scene
from tests.bench.paths_table import rows
from tests.pipelines.conftest import World
from tests.pipelines.test_cli import cascadeguard, refused

RATE = 0.01
LADDER = [  # depth, final drop, liquidated, loop gain kappa = 40M within 2 % / (depth * 2 %)
    (4.0e9, 0.0176, 30e6, 0.5),
    (3.0e9, 0.0234333333333, 40e6, 2 / 3),
    (2.5e9, 0.0341, 60e6, 0.8),
    (2.1e9, 0.114861904762, 220e6, 20 / 21),
    (2.0e9, 0.2101, 400e6, 1.0),
    (1.0e9, 0.4101, 400e6, 2.0),
]


def ladder(folder: Path, depth: float, *, isolated: bool = True, shape: str = "flat") -> list[object]:
    """Price 100; 40 accounts with 10M each, of which one lacks margin below each of 99.5, 99, ... 80.

    100 000 units, entry 100. Equity m + 100 000 (P - 100) meets maintenance .01 * 100 000 P at the rung if
    m = 100 000 * (100 - rung) + 1 000 * rung.
    """
    rungs = [99.5 - 0.5 * step for step in range(40)]
    margins = [100_000 * (100 - rung) + 100_000 * RATE * rung for rung in rungs]
    mode = "isolated" if isolated else "cross"
    kept = [margin if isolated else "" for margin in margins]
    rows = [f"a{nth},BTC,100000,100,{mode},{margin}" for nth, margin in enumerate(kept)]
    backing = [f"a{nth},USDT,{margin}" for nth, margin in enumerate(margins)]
    market = f"[symbols.BTC]\nmark_price = 100\nmaintenance_rate = {RATE}\nvolatility = 0.03\n"
    return given(
        folder,
        positions=["account,symbol,qty,entry_price,margin_mode,isolated_margin", *rows],
        collateral=None if isolated else ["account,asset,amount", *backing],
        depth=["symbol,depth_usd_per_unit,shape", f"BTC,{depth},{shape}"],
        instruments=[market],
    )


def given(folder: Path, **files: list[str] | None) -> list[object]:
    """Write the files; the options that name them."""
    options: list[object] = []
    for name, lines in files.items():
        if lines is not None:
            path = folder / f"{name}.{'toml' if name == 'instruments' else 'csv'}"
            path.write_text("\n".join(lines) + "\n")
            options += [f"--{name}", path]
    return options


def told(folder: Path, shock: str, *options: object) -> dict[str, Any]:
    """The JSON object of one run; refuses NaN and Infinity, which are no JSON."""

    def not_json(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    done = cascadeguard("stress", "--shock", shock, *options, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout, parse_constant=not_json)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("row", LADDER)
def test_the_ladder_runs_as_far_as_its_depth_lets_it(
    tmp_path: Path, row: tuple[float, float, float, float], isolated: bool
) -> None:
    """10M of longs at every half dollar below 99.5, shock 1.01 %: two rungs at first, then drop = 1.01 % + sold / D."""
    depth, drop, liquidated, kappa = row
    found = told(tmp_path, "BTC=-1.01%", *ladder(tmp_path, depth, isolated=isolated))
    assert found["drop_by_symbol"]["BTC"] == pytest.approx(drop, rel=1e-9)
    assert found["liquidated_usd"] == liquidated
    assert found["liquidated_usd_by_symbol"] == {"BTC": liquidated}
    assert found["accounts_liquidated"] == liquidated / 10e6
    assert found["rho"] == pytest.approx(kappa, rel=1e-9)
    assert found["self_sustaining"] == (kappa >= 1)
    if kappa < 1:
        assert found["amplification"] == pytest.approx(1 / (1 - kappa), rel=1e-9)
        assert found["cliff_price_by_symbol"] == {"BTC": None}
    else:
        assert found["amplification"] is None
        assert found["cliff_price_by_symbol"]["BTC"] == pytest.approx(99.5, rel=1e-9)


def test_the_object_has_every_key_that_others_rely_on(tmp_path: Path) -> None:
    found = told(tmp_path, "BTC=-1.01%", *ladder(tmp_path, 4e9))
    promised = """liquidated_usd liquidated_usd_by_symbol drop_by_symbol accounts_liquidated fund_draw_usd bad_debt_usd
        adl_usd rounds rho amplification cliff_price_by_symbol triggers duration_s uncovered_usd fees_usd path profile
        shape_by_symbol exhausted depth_halved self_sustaining"""
    assert set(promised.split()) <= set(found)
    assert {"account", "leg", "share_of_notional", "share_of_risk"} <= set(found["triggers"][0])
    assert (found["path"], found["profile"], found["rounds"]) == ("market", "none", 2)


@pytest.mark.parametrize(("shape", "ratio"), [("flat", 2.0), ("ramp", 2**0.5), ("sqrt", 2**0.5)])
def test_half_the_depth_doubles_slippage_on_a_flat_book_alone(tmp_path: Path, shape: str, ratio: float) -> None:
    found = told(tmp_path, "BTC=-1.01%", *ladder(tmp_path, 50e9, shape=shape))
    assert found["depth_halved"]["slippage_ratio_by_symbol"]["BTC"] == pytest.approx(ratio, rel=1e-12)
    assert found["shape_by_symbol"] == {"BTC": shape}


def test_half_the_depth_makes_the_amplification_jump(tmp_path: Path) -> None:
    """D = 5e9: kappa .4, a shock ends 1.667 times as large; at half of it kappa .8 and 5 times. At D = 4e9: no end."""
    found = told(tmp_path, "BTC=-1.01%", *ladder(tmp_path, 5e9))
    assert found["amplification"] == pytest.approx(1 / 0.6)
    assert found["depth_halved"]["amplification"] == pytest.approx(5)
    assert found["depth_halved"]["drop_by_symbol"]["BTC"] == pytest.approx(0.0341, rel=1e-9)  # the row of 2.5e9
    assert found["depth_halved"]["liquidated_usd"] == 60e6
    over = told(tmp_path, "BTC=-1.01%", *ladder(tmp_path, 4e9))["depth_halved"]
    assert (over["amplification"], over["self_sustaining"], over["liquidated_usd"]) == (None, True, 400e6)


def test_a_small_leg_that_weighs_upon_its_account_is_told_though_others_are_nearer(tmp_path: Path) -> None:
    """The portfolio of the seed: 100 000 and 10 000 of notional, sd .8 % and 6 %, correlation .8, equity 6 000."""
    market = """[symbols.BIG]
price = 100
maintenance_rate = 0.02
volatility = 0.008
[symbols.SMALL]
price = 1
maintenance_rate = 0.1
volatility = 0.06
[correlation]
"BIG/SMALL" = 0.8"""
    near = [f"near{nth},BIG,1,100,isolated,2.1" for nth in range(30)]
    options = given(
        tmp_path,
        positions=[
            "account,symbol,qty,entry_price,margin_mode,isolated_margin",
            "ann,BIG,1000,100,cross,",
            "ann,SMALL,10000,1,cross,",
            *near,
        ],
        collateral=["account,asset,amount", "ann,USDT,6000"],
        depth=["symbol,depth_usd_per_unit", "BIG,1e9", "SMALL,1e9"],
        instruments=[market],
    )
    rows = told(tmp_path, "BIG=-0.1%", *options)["triggers"]
    trigger = next(row for row in rows if (row["account"], row["leg"]) == ("ann", "SMALL"))
    assert trigger["share_of_notional"] == pytest.approx(1 / 11, rel=1e-9)
    assert trigger["share_of_risk"] == pytest.approx(559.5409 / 1329.6616, rel=1e-6)
    assert trigger["share_of_distance"] == pytest.approx(1 - 2.256213 / 5.0, rel=1e-6)


def test_the_words_for_people_say_the_shape_and_the_jump(tmp_path: Path) -> None:
    options = ladder(tmp_path, 4e9)
    done = cascadeguard("stress", "--shock", "BTC=-1.01%", *options, cwd=tmp_path)
    said = " ".join(done.stdout.split())
    assert "BTC -1.01%: 30,000,000 USD liquidated of 3 of 40 accounts, in 2 rounds" in said
    assert "slippage x 2.000 on a flat book, but amplification 2.000 -> no end (rho 1.000, it sustains itself)" in said
    assert re.search(r"BTC flat 1\.7600% 30,000,000", said)


def two_symbols(folder: Path, mode: str) -> list[object]:
    """An account of 1 000 A and 1 000 B, both at 100, with 10 000 of money: shared, or 5 000 locked to each."""
    margin = 5_000 if mode == "isolated" else ""
    return given(
        folder,
        positions=[
            "account,symbol,qty,entry_price,margin_mode,isolated_margin",
            *(f"ann,{symbol},1000,100,{mode},{margin}" for symbol in "AB"),
        ],
        collateral=["account,asset,amount", "ann,USDT,10000"],
        depth=["symbol,depth_usd_per_unit", "A,2e7", "B,1e7"],
        instruments=["\n".join(f"[symbols.{symbol}]\nprice = 100\nmaintenance_rate = 0.01" for symbol in "AB")],
    )


def test_a_shared_account_carries_a_fall_of_one_symbol_into_another(tmp_path: Path) -> None:
    """A falls 9 %: equity 10 000 - 9 000 = 1 000 < 910 + 1 000. All of B is sold: 100 000 / 1e7 = 1 %."""
    found = told(tmp_path, "A=-9%", *two_symbols(tmp_path, "cross"))
    assert found["liquidated_usd_by_symbol"] == {"A": 100_000, "B": 100_000}
    assert found["drop_by_symbol"] == {"A": pytest.approx(0.095), "B": pytest.approx(0.01)}
    # what is left: 10 000 - 100 000 * 9.25 % - 100 000 * .5 %, fills at the middle of each walk: 250 are left
    assert found["bad_debt_usd"] == 0


def test_isolated_margin_carries_nothing_into_another_symbol(tmp_path: Path) -> None:
    """A falls 9 %: 5 000 - 9 000 is below zero; 9.25 % of 100 000 less 5 000 is owed. B stands still, exactly."""
    found = told(tmp_path, "A=-9%", *two_symbols(tmp_path, "isolated"))
    assert found["liquidated_usd_by_symbol"] == {"A": 100_000, "B": 0}
    assert found["drop_by_symbol"]["B"] == 0
    assert found["bad_debt_usd"] == found["uncovered_usd"] == pytest.approx(4_250, abs=1e-6)


def test_the_shock_of_an_asset_hits_those_whose_collateral_it_is(tmp_path: Path) -> None:
    """Both long 98 000 with 1 000 of money and 980 of maintenance. USDE -3 %: 970 is too little; USDT stands."""
    options = given(
        tmp_path,
        positions=["account,symbol,qty,entry_price", "ann,BTC,980,100", "bob,BTC,980,100"],
        collateral=["account,asset,amount", "ann,USDE,1000", "bob,USDT,1000"],
        depth=["symbol,depth_usd_per_unit", "BTC,1e12"],
        instruments=["[symbols.BTC]\nprice = 100\nmaintenance_rate = 0.01\n[assets.USDE]\nprice = 1.0"],
    )
    assert told(tmp_path, "USDE=-1%", *options)["accounts_liquidated"] == 0
    found = told(tmp_path, "USDE=-3%", *options)
    assert (found["accounts_liquidated"], found["liquidated_usd"]) == (1, 98_000)
    assert told(tmp_path, "USDE=-3%,USDT=-0.03", *options)["accounts_liquidated"] == 2


FUND = """name = "ours"
[[version]]
effective_from = 2025-01-01T00:00:00Z
buffer = 0.0
fund_usd = {fund}
adl = "rank"
mark = {{ rule = "last" }}
path = {{ kind = "market" }}
fees = {{ taker = 0.0, liquidation = 0.0 }}
latency = {{ book_s = 0.5, mark_s = 1.0, liquidation_s = 0.5 }}
tiers = {{ "*" = [{{ rate = 0.01 }}] }}
[version.sources]
{sources}
"""
CONSTANTS = ("buffer", "fund_usd", "adl", "mark", "path", "fees", "latency", "tiers")


@pytest.mark.parametrize(
    ("fund", "draw", "adl", "uncovered"), [(9_000, 4_250, 0, 0), (1_000, 1_000, 2_000, 1_250), (0, 0, 2_000, 2_250)]
)
def test_the_fund_pays_first_then_winners_up_to_their_profit_and_the_rest_is_named(
    tmp_path: Path, fund: float, draw: float, adl: float, uncovered: float
) -> None:
    """The 4 250 of the account above; bob, short 100 A from 110.5, has won 20 on each at the final 90.5: 2 000."""
    options = two_symbols(tmp_path, "isolated")
    positions = tmp_path / "positions.csv"
    positions.write_text(positions.read_text() + "bob,A,-100,110.5,isolated,5000\n")
    profile = tmp_path / "ours.toml"
    sources = "\n".join(f'{name} = "assumed: made up for this test"' for name in CONSTANTS)
    profile.write_text(FUND.format(fund=fund, sources=sources))
    found = told(tmp_path, "A=-9%", *options, "--profile", profile)
    assert found["bad_debt_usd"] == pytest.approx(4_250, abs=1e-6)
    assert found["fund_draw_usd"] == pytest.approx(draw, abs=1e-6)
    assert found["adl_usd"] == pytest.approx(adl, abs=1e-6)
    assert found["uncovered_usd"] == pytest.approx(uncovered, abs=1e-6)
    assert found["duration_s"] == 2.0  # one round of .5 + 1 + .5 s


@pytest.mark.parametrize("path", ["market", "gradual", "share_first", "velocity", "timed", "auction"])
def test_every_path_can_be_asked_for_and_conserves_money(tmp_path: Path, path: str) -> None:
    found = told(tmp_path, "A=-9%", *two_symbols(tmp_path, "isolated"), "--path", path)
    micro = {name: round(found[name] * 1e6) for name in ("bad_debt_usd", "fund_draw_usd", "adl_usd", "uncovered_usd")}
    assert micro["bad_debt_usd"] == micro["fund_draw_usd"] + micro["adl_usd"] + micro["uncovered_usd"]
    assert (found["path"], found["accounts_liquidated"]) == (path, 1)


def test_the_known_levels_are_not_extended_silently(tmp_path: Path) -> None:
    options = ladder(tmp_path, 1e9)
    (tmp_path / "depth.csv").write_text("symbol,side,price,usd\nBTC,bid,99,1e7\n")  # 1e9 per unit, known to 1 %
    found = told(tmp_path, "BTC=-1.01%", *options)
    assert found["exhausted"] == {"BTC": True}
    assert found["drop_by_symbol"]["BTC"] == pytest.approx(0.4101, rel=1e-9)
    said = cascadeguard("stress", "--shock", "BTC=-1.01%", *options, cwd=tmp_path).stdout
    assert "The book of BTC is used up beyond what is known of it" in said


@pytest.mark.parametrize(
    ("text", "change"),
    [("BTC=-5%", -0.05), ("BTC=-0.05", -0.05), (" BTC = +2.5% ", 0.025), ("BTC=+.5", 0.5), ("BTC=-0%", 0.0)],
)
def test_percent_and_fraction_mean_the_same(text: str, change: float) -> None:
    assert math.isclose(parse_shock(text)["BTC"], change, abs_tol=1e-15)


@pytest.mark.parametrize(
    "text",
    ["", "BTC", "BTC=", "BTC=5%", "BTC=-5%%", "=-5%", "BTC=-nan", "BTC=-5", "BTC=-100%", "BTC=-1e-2", "BTC=-1%,"],
)
def test_a_shock_without_sign_or_sense_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_shock(text)


def test_a_symbol_named_itself_moves_as_told_whatever_is_said_of_its_base(tmp_path: Path) -> None:
    options = ladder(tmp_path, 1e9)
    market = tmp_path / "instruments.toml"
    market.write_text(market.read_text() + 'base = "XBT"\n')
    named = dict(zip(options[::2], options[1::2], strict=True))
    scene = read_scene(Files(*(Path(str(named[f"--{name}"])) for name in ("positions", "instruments", "depth"))), PLAIN)
    assert drops_of({"BTC": -0.02, "XBT": -0.5}, scene)[0].tolist() == [0.02]
    assert drops_of({"XBT": -0.5}, scene)[0].tolist() == [0.5]


def test_mistakes_are_one_line_and_exit_2(tmp_path: Path) -> None:
    options = ladder(tmp_path, 1e9)
    bad: list[tuple[str, list[object], tuple[str, ...]]] = [
        ("DOGE=-5%", options, ("DOGE", "known are BTC")),
        ("BTC=5%", options, ("with a sign",)),
        ("BTC=-5%", options[:4], ("--instruments", "go together")),
        ("BTC=-5%", [*options, "--path", "slow"], ("unknown path", "market, gradual")),
        ("BTC=-5%", [*options, "--profile", "nowhere"], ("unknown venue profile", "dydx")),
        ("BTC=-5%", [*options, "--spill", "2"], ("--spill",)),
    ]
    for shock, words, said in bad:
        refused(cascadeguard("stress", "--shock", shock, *words, cwd=tmp_path), *said)


def test_the_page_tells_the_same_without_script_or_outside_request(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    found = told(tmp_path, "BTC=-1.01%", *ladder(tmp_path, 4e9), "--html", page)
    text = page.read_text()
    assert "<h1>BTC -1.01 %: 30,000,000 USD liquidated</h1>" in text
    assert "slippage x 2.000 on a flat book, but amplification 2.000 -&gt; no end" in text
    assert f"<td>{found['triggers'][0]['account']}</td>" in text
    assert not re.search(r"<script|https?://|url\(", text)
    nowhere = tmp_path / "positions.csv" / "page.html"
    done = cascadeguard("stress", "--shock", "BTC=-1%", *ladder(tmp_path, 4e9), "--html", nowhere, cwd=tmp_path)
    refused(done, "the page cannot be written", "--html")


def test_names_from_files_are_text_on_the_page(tmp_path: Path) -> None:
    options = ladder(tmp_path, 4e9)
    positions = tmp_path / "positions.csv"
    positions.write_text(positions.read_text().replace("a0,", "<b>a0</b>,"))
    told(tmp_path, "BTC=-1.01%", *options, "--html", tmp_path / "page.html")
    assert "<td>&lt;b&gt;a0&lt;/b&gt;</td>" in (tmp_path / "page.html").read_text()


def test_the_lake_is_stressed_as_it_was_known_at_a_moment(world: World, tmp_path: Path) -> None:
    """A fall of the base asset moves its contract; a fall of 60 % leaves no long with leverage above 2 standing."""
    lake = ["--lake", world.lake.root]
    mild, hard = (told(tmp_path, f"AAA={change}", *lake) for change in ("-1%", "-60%"))
    assert mild["drop_by_symbol"]["AAA-PERP"] >= 0.01
    assert hard["liquidated_usd"] > mild["liquidated_usd"]
    assert 0 < hard["accounts_liquidated"] <= hard["accounts"]
    earlier = told(tmp_path, "AAA=-60%", *lake, "--at", "2025-01-01T12:00Z")
    assert earlier["liquidated_usd"] != hard["liquidated_usd"]
    refused(cascadeguard("stress", "--shock", "AAA=-1%", *lake, "--venue", "nowhere", cwd=tmp_path), "nowhere")
    refused(
        cascadeguard("stress", "--shock", "AAA=-1%", "--lake", tmp_path / "none", cwd=tmp_path), "nothing to stress"
    )


def test_the_table_of_paths_is_the_same_from_the_same_seed_and_pays_every_hole() -> None:
    found = rows(400, 6, 7)
    assert found == rows(400, 6, 7)
    assert [row.path for row in found] == ["market", "gradual", "auction"]
    market, gradual, auction = found
    assert all(row.liquidated_usd > 0 and row.worst_drop > 0 for row in found)
    assert all(row.adl_usd + row.uncovered_usd <= row.bad_debt_usd + 1e-6 for row in found)
    assert gradual.duration_s_max > market.duration_s_max  # a tenth a step takes longer than all at once
    assert auction.worst_drop < market.worst_drop  # bidders take half of the risk off the book
