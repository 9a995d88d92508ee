"""Files to a world: what is read, what is assumed where something is left out, and what is refused, all at once."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from features.mechanics.margin import Tier
from features.mechanics.profile import Fees, Haircut, MarkRule, Profile
from features.mechanics.profile import Path as Way
from pipelines.errors import InputError
from pipelines.stress_files import Files, Scene, read_scene

BARE = Profile("bare", datetime(2024, 1, 1, tzinfo=UTC), MarkRule("last"), Way("market"), Fees(0.0, 0.0), {})
POSITIONS = """account,symbol,qty,entry_price,margin_mode,isolated_margin
ann,BTC,2,100,cross,
ann,ETH,-10,10,,
bob,BTC,1,110,isolated,12
"""
COLLATERAL = "account,asset,amount\nann,USDT,50\nann,USDE,20\nann,ETH,3\nbob,USDT,9\n"
INSTRUMENTS = """
[symbols.BTC]
mark_price = 100
tiers = [{notional_usd_max = 1000, maintenance_rate = 0.01}, {maintenance_rate = 0.02}]
volatility = 0.03
[symbols.ETH]
price = 10.0
maintenance_rate = 0.05
contract_size = 0.1
[assets.USDE]
haircut = 0.1
[assets.ETH]
haircut = 0.2
[correlation]
"BTC/ETH" = 0.8
"""
DEPTH = "symbol,depth_usd_per_unit,shape\nBTC,1e6,flat\nETH,2e5,ramp\n"
SHALLOW = "symbol,depth_usd_per_unit\nBTC,1e6\n"


def written(
    folder: Path,
    positions: str = POSITIONS,
    instruments: str = INSTRUMENTS,
    depth: str = DEPTH,
    collateral: str | None = COLLATERAL,
) -> Files:
    files = {"positions.csv": positions, "market.toml": instruments, "depth.csv": depth, "collateral.csv": collateral}
    for name, text in files.items():
        if text is not None:
            (folder / name).write_text(text)
    paths = [folder / name for name in files]
    return Files(paths[0], paths[1], paths[2], None if collateral is None else paths[3])


def scene(folder: Path, profile: Profile = BARE, spill: float | None = None, **texts: str | None) -> Scene:
    return read_scene(written(folder, **texts), profile, spill=spill)  # type: ignore[arg-type] # texts by name


def test_a_cross_account_is_one_unit_and_each_isolated_position_another(tmp_path: Path) -> None:
    world = scene(tmp_path).world
    assert (world.symbols, world.account_names, world.account.tolist()) == (("BTC", "ETH"), ("ann", "bob"), [0, 1])
    # ann: BTC, ETH, then her ETH collateral as a leg that is never closed; bob: his isolated BTC
    assert world.leg_start.tolist() == [0, 3, 4]
    assert world.leg_symbol.tolist() == [0, 1, 1, 0]
    assert world.leg_closable.tolist() == [True, True, False, True]
    # ETH collateral: 3 ETH at 10, haircut 20 %: 24 USD = 2.4 ETH that move with the market, entered at the mark
    np.testing.assert_allclose(world.leg_qty, [2, -10, 2.4, 1], rtol=1e-15)
    assert world.leg_entry.tolist() == [100, 10, 10, 110]
    # ann: 50 USDT + 20 USDE less 10 % + 24 of ETH = 92; bob's 9 USDT do not stand behind his isolated position
    np.testing.assert_allclose(world.cash_usd, [92, 12], rtol=1e-15)


def test_tiers_without_deductions_are_made_continuous_and_short_schedules_repeat_their_last(tmp_path: Path) -> None:
    world = scene(tmp_path).world
    assert world.rates.T.tolist() == [[0.01, 0.02], [0.05, 0.05]]
    assert world.deductions.T.tolist() == [[0, 10], [0, 0]]  # 1 000 * (2 % - 1 %)


def test_depth_has_a_shape_and_no_end_unless_one_is_given(tmp_path: Path) -> None:
    books = scene(tmp_path).world.books
    assert (books.depth_usd.tolist(), books.shape) == ([1e6, 2e5], ("flat", "ramp"))
    assert np.isinf(books.depth_limit).all()


@pytest.mark.parametrize(("given", "in_file", "felt"), [(None, "", 0.08), (None, "spill = 0.25\n", 0.2), (0.0, "", 0)])
def test_an_impact_spills_over_by_correlation_times_spill(
    tmp_path: Path, given: float | None, in_file: str, felt: float
) -> None:
    world = scene(tmp_path, spill=given, instruments=INSTRUMENTS + in_file).world
    np.testing.assert_allclose(world.spill, [[1, felt], [felt, 1]])  # .8 * (.1 assumed, .25, 0)


def test_without_correlation_nothing_spills_over(tmp_path: Path) -> None:
    found = scene(tmp_path, instruments=INSTRUMENTS.split("[correlation]", maxsplit=1)[0], spill=1.0)
    assert np.array_equal(found.world.spill, np.eye(2))
    assert found.spill == 0


@pytest.mark.parametrize(
    "text",
    [
        '[correlation]\nsymbols = ["ETH", "BTC"]\nmatrix = [[1, 0.8], [0.8, 1]]',
        "correlation = [[1.0, 0.8], [0.8, 1.0]]",
    ],
)
def test_a_correlation_matrix_says_the_same_as_pairs(tmp_path: Path, text: str) -> None:
    rest = INSTRUMENTS.split("[correlation]", maxsplit=1)[0]
    whole = text + "\n" + rest if text.startswith("correlation") else rest + text
    assert scene(tmp_path, instruments=whole).correlation.tolist() == [[1, 0.8], [0.8, 1]]


def test_the_order_of_rows_is_irrelevant(tmp_path: Path) -> None:
    def turned(text: str) -> str:
        head, *rows = text.strip().split("\n")
        return "\n".join([head, *reversed(rows)]) + "\n"

    straight = scene(tmp_path)
    back = scene(tmp_path, positions=turned(POSITIONS), collateral=turned(COLLATERAL), depth=turned(DEPTH))
    for name in ("cash_usd", "leg_qty", "leg_symbol", "leg_entry", "leg_start", "account"):
        assert np.array_equal(getattr(straight.world, name), getattr(back.world, name)), name


def test_a_shock_of_an_asset_takes_from_the_cash_of_those_who_hold_it(tmp_path: Path) -> None:
    found = scene(tmp_path)
    drop = np.array([0.5 if name == "USDE" else 0.0 for name in found.assets])
    # ann's 20 USDE count 18 after haircut; half of that is gone. bob holds none.
    np.testing.assert_allclose(found.world.cash_usd - found.shocked(drop).cash_usd, [9, 0], atol=1e-12)


def test_a_name_moves_the_symbol_its_asset_follows(tmp_path: Path) -> None:
    based = INSTRUMENTS.replace("[symbols.BTC]", '[symbols.BTC]\nbase = "XBT"')
    moves = scene(tmp_path, instruments=based).moves
    assert moves == {
        "XBT": (("BTC",), ()), "BTC": (("BTC",), ()), "ETH": (("ETH",), ()), "USDE": ((), ("USDE",)),
        "USDT": ((), ("USDT",)),
    }  # fmt: skip


def test_a_debt_has_no_haircut(tmp_path: Path) -> None:
    found = scene(tmp_path, collateral="account,asset,amount\nann,USDE,-20\nann,ETH,-1\n").world
    np.testing.assert_allclose(found.cash_usd, [-30, 12])
    assert found.leg_qty[2] == -1  # a debt in ETH grows when ETH rises


def test_contracts_are_multiplied_by_the_contract_size_and_base_units_are_not(tmp_path: Path) -> None:
    rows = "account,symbol,{size},entry_price,isolated_margin\nbob,ETH,20,10,5\n"
    quantities = [
        scene(tmp_path, positions=rows.format(size=size), collateral=None).world.leg_qty.tolist()
        for size in ("qty", "contracts")
    ]
    assert quantities == [[20], [2]]


def test_a_margin_makes_a_position_isolated_where_no_mode_is_given_and_flat_positions_are_left_out(
    tmp_path: Path,
) -> None:
    rows = "account,symbol,qty,entry_price,isolated_margin\nbob,BTC,1,100,5\nbob,ETH,0,10,5\nann,BTC,1,100,7\n"
    world = scene(tmp_path, positions=rows, collateral=None).world
    assert (world.cash_usd.tolist(), world.leg_qty.tolist()) == ([7, 5], [1, 1])


def test_tiers_and_haircuts_come_from_the_profile_where_the_file_names_none(tmp_path: Path) -> None:
    haircuts = {"USDE": Haircut(((10.0, 0.05), (np.inf, 0.5)))}
    profile = replace(BARE, tiers={"*": (Tier(0.03, 0.0),)}, haircuts=haircuts)
    plain = "[symbols.BTC]\nmark_price = 100\n[symbols.ETH]\nmark_price = 10\nmaintenance_rate = 0.04\n[assets.USDE]\n"
    world = scene(tmp_path, profile, instruments=plain, collateral="account,asset,amount\nann,USDE,20\n").world
    assert world.rates.tolist() == [[0.03, 0.04]]
    assert world.cash_usd[0] == 14.5  # the first 10 USD less 5 %, the next 10 less 50 %


def test_levels_give_the_average_density_of_the_thinner_side_to_its_last_level(tmp_path: Path) -> None:
    levels = """symbol,side,price,qty
BTC,bid,99.9,10
BTC,bid,98,10
BTC,ask,100.1,10
BTC,ask,101,40
ETH,bid,9.5,100
"""
    books = scene(tmp_path, depth=levels).world.books
    # BTC, middle 100: bids 999 + 980 = 1 979 within 2 %: 98 950; asks 1 001 + 4 040 within 1 %: more. ETH has one side:
    # 950 within 5 % of the mark 10: 19 000.
    np.testing.assert_allclose(books.depth_usd, [98_950, 19_000])
    np.testing.assert_allclose(books.depth_limit, [0.02, 0.05])
    assert books.shape == ("flat", "flat")


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    files = written(tmp_path)
    moved = {}
    for name in ("positions", "depth", "collateral"):
        moved[name] = tmp_path / f"{name}.parquet"
        pl.read_csv(getattr(files, name)).write_parquet(moved[name])
    columnar = read_scene(Files(moved["positions"], files.instruments, moved["depth"], moved["collateral"]), BARE)
    assert np.array_equal(columnar.world.cash_usd, scene(tmp_path).world.cash_usd)
    assert np.array_equal(columnar.world.leg_qty, scene(tmp_path).world.leg_qty)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positions": POSITIONS.replace("ann,BTC,2", "ann,BTC,two")}, "`qty` must be a finite number, line 2"),
        ({"positions": POSITIONS.replace("ann,BTC,2", "ann,BTC,nan")}, "`qty` must be a finite number, line 2"),
        ({"positions": POSITIONS.replace("ann,BTC,2", "ann,BTC,")}, "`qty` is empty, line 2"),
        ({"positions": POSITIONS.replace("2,100", "2,-100")}, "`entry_price` must be positive, line 2"),
        ({"positions": POSITIONS.replace("cross", "shared")}, "`margin_mode` must be cross or isolated, line 2"),
        ({"positions": POSITIONS.replace("isolated,12", "isolated,")}, "needs `isolated_margin`, line 4"),
        ({"positions": POSITIONS.replace("isolated,12", "isolated,-1")}, "`isolated_margin` must be at least 0"),
        ({"positions": POSITIONS.replace("cross,", "cross,7")}, "a cross position has no margin"),
        ({"positions": POSITIONS.replace("bob,BTC", "ann,BTC")}, "two positions in a symbol, line 4"),
        ({"positions": POSITIONS.replace("bob,BTC", "bob,XRP")}, "XRP is not in the instruments, line 4"),
        ({"positions": POSITIONS.replace("bob,BTC", ",BTC")}, "`account` is empty, line 4"),
        ({"positions": POSITIONS.replace("qty", "size")}, "columns are missing: qty"),
        ({"positions": "account,symbol,qty,entry_price\nann,BTC,0,100\n"}, "there is no open position"),
        ({"collateral": None}, "--collateral"),
        ({"collateral": COLLATERAL + "ann,DOGE,1\n"}, "DOGE has no [assets.NAME] table with its price, line 6"),
        ({"collateral": COLLATERAL + "ann,USDT,1\n"}, "two rows of an asset, line 6"),
        ({"depth": SHALLOW, "collateral": COLLATERAL.replace("ETH", "USD")}, "ETH has positions but no depth, line 3"),
        (
            {"depth": SHALLOW, "positions": POSITIONS.replace("ann,ETH,-10", "ann,ETH,0")},
            "ETH has no depth, though collateral ETH follows it",
        ),
        ({"depth": DEPTH.replace("2e5", "0")}, "`depth_usd_per_unit` must be positive, line 3"),
        ({"depth": DEPTH.replace("ramp", "cone")}, "`shape` must be one of flat, ramp, sqrt, line 3"),
        ({"depth": DEPTH + "BTC,1e6,flat\n"}, "a symbol has two rows, line 4"),
        ({"depth": "symbol,side,price,qty\nBTC,bid,101,1\nBTC,ask,100,1\nETH,bid,9,1\n"}, "the book of BTC is crossed"),
        ({"depth": "symbol,side,price,qty\nBTC,bid,99,0\nETH,bid,9,1\n"}, "the book of BTC has a side without depth"),
        ({"instruments": INSTRUMENTS.replace("price = 10.0", "")}, "`symbols.ETH.mark_price` is missing"),
        ({"instruments": INSTRUMENTS.replace("price = 10.0", "price = -1")}, "greater than 0, was -1"),
        ({"instruments": INSTRUMENTS.replace("price = 10.0", "price = nan")}, "finite number, was nan"),
        ({"instruments": INSTRUMENTS.replace("0.05\n", "0.05\nleverage = 3\n")}, "`symbols.ETH.leverage` is not known"),
        ({"instruments": INSTRUMENTS.replace("maintenance_rate = 0.05", "")}, "neither `tiers` nor `maintenance_rate`"),
        ({"instruments": INSTRUMENTS.replace("= 0.02}", "= 0.005}")}, "`maintenance_rate` must not fall"),
        ({"instruments": INSTRUMENTS.replace("= 0.02}", "= 0.02, deduction_usd = 3}")}, "must be 10.0, was 3"),
        ({"instruments": INSTRUMENTS.replace("= 0.8", "= 1.8")}, "must be in [-1, 1], was 1.8"),
        ({"instruments": INSTRUMENTS.replace("BTC/ETH", "BTC/XRP")}, "must be two of BTC, ETH"),
        ({"instruments": INSTRUMENTS + "spill = 2\n"}, "`spill` must be in [0, 1], was 2"),
        ({"instruments": INSTRUMENTS.replace("0.2\n", '0.2\nsymbol = "XRP"\n')}, "`assets.ETH.symbol` must be one of"),
        ({"instruments": INSTRUMENTS + "[fees]\n"}, "was fees"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, change: dict[str, str | None], said: str) -> None:
    with pytest.raises(InputError) as raised:
        scene(tmp_path, **change)
    assert said in str(raised.value)
    assert "1 fault: " in str(raised.value)


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ("[[1, 0.5], [0.4, 1]]", "must be symmetric"),
        ("[[1, 0.5]]", "must be a square"),
        ("[[1, 2], [2, 1]]", "in [-1, 1]"),
        ("[[2, 0], [0, 1]]", "ones on its diagonal"),
        ("[[1, nan], [nan, 1]]", "in [-1, 1]"),
        ('[["a", 1], [1, 1]]', "must be a square"),
    ],
)
def test_a_matrix_that_is_no_correlation_is_refused(tmp_path: Path, matrix: str, said: str) -> None:
    text = INSTRUMENTS.split("[correlation]", maxsplit=1)[0]
    text += f'[correlation]\nsymbols = ["BTC", "ETH"]\nmatrix = {matrix}\n'
    with pytest.raises(InputError, match="1 fault") as raised:
        scene(tmp_path, instruments=text)
    assert said in str(raised.value)


def test_correlations_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """Three symbols cannot all run against one another at -.9: a portfolio of them would have a negative variance."""
    third = "[symbols.SOL]\nprice = 1\nmaintenance_rate = 0.1\n[correlation]"
    pairs = '"BTC/ETH" = -0.9\n"BTC/SOL" = -0.9\n"ETH/SOL" = -0.9\n'
    text = INSTRUMENTS.replace("[correlation]", third).replace('"BTC/ETH" = 0.8\n', pairs)
    with pytest.raises(InputError, match="positive semi-definite"):
        scene(tmp_path, instruments=text)


def test_all_faults_of_all_files_are_said_at_once_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        scene(
            tmp_path,
            positions=POSITIONS.replace("ann,BTC,2", "ann,BTC,two").replace("bob,BTC", "bob,XRP"),
            depth=DEPTH.replace("flat", "cone"),
            collateral=COLLATERAL + "ann,DOGE,x\n",
        )
    said = str(raised.value)
    assert said.startswith("5 faults: ")
    assert "\n" not in said
    assert [name in said for name in ("positions.csv", "depth.csv", "collateral.csv")] == [True] * 3


def test_a_file_that_is_not_there_or_not_a_table_is_one_line(tmp_path: Path) -> None:
    files = written(tmp_path)
    with pytest.raises(InputError, match=r"cannot read.*nowhere\.csv"):
        read_scene(Files(tmp_path / "nowhere.csv", files.instruments, files.depth, files.collateral), BARE)
    with pytest.raises(InputError, match=r"cannot read.*positions\.csv"):
        scene(tmp_path, positions="")
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(InputError, match=r"cannot read.*broken\.parquet"):
        read_scene(Files(tmp_path / "broken.parquet", files.instruments, files.depth, files.collateral), BARE)
    with pytest.raises(InputError, match="not TOML"):
        scene(tmp_path, instruments="[symbols\n")
