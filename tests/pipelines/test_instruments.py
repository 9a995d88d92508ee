import itertools
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from features.schema import UTC_US, Instruments
from pipelines.adapters.adapter import with_instrument
from pipelines.config import Config
from pipelines.errors import InputError
from pipelines.instruments import load_instruments, parse_instruments, shipped_files, write_instruments
from pipelines.lake import Lake

LINEAR = """
[defaults]
venue = "v"
base = "A"
quote = "USDT"
settlement = "linear"
contract_size = {size}
[[instrument]]
symbol = "AUSDT"
effective_from = 2024-01-01T00:00:00Z
"""


def _symbols(rows: pl.DataFrame, venue: str) -> list[str]:
    return sorted(rows.filter(pl.col("venue") == venue)["symbol"].unique().to_list())


def test_the_shipped_files_hold_the_promised_instruments() -> None:
    rows = load_instruments(Config()).rows
    bases = ["AAVE", "ATOM", "AVAX", "BCH", "DOT", "ETC", "FIL", "TRX", "UNI", "WIF", "WLD", "XLM"]
    coinm = rows.filter(pl.col("venue") == "binance-coinm", pl.col("base").is_in(bases))
    assert coinm["symbol"].to_list() == [f"{base}USD_PERP" for base in bases]
    assert coinm["settlement"].unique().to_list() == ["inverse"]
    assert coinm["contract_size"].unique().to_list() == [10.0]
    spots = rows.filter(pl.col("settlement") == "spot")
    assert set(spots["venue"]) >= {"binance", "coinbase", "gemini"}
    references = dict(rows.select("symbol", pl.col("spot_reference").list.first()).rows())
    assert references["AVAXUSD_PERP"] == "coinbase:AVAX-USD"
    assert references["TRXUSD_PERP"] == "binance:TRXUSDT"
    assert references["BTCUSDT"] == "gemini:BTCUSD"
    Instruments.validate(rows)


FAMILY = """
[defaults]
venue = "v"
effective_from = 2024-01-01T00:00:00Z
quote = "USDT"
settlement = "linear"

[[instrument]]
symbol = "{base}USDT"
contract_size = 1

[[instrument]]
symbol = "1000{base}USDT"
contract_size = 1000

[[instrument]]
symbol = "BTCUSDT"
base = "BTC"
contract_size = 0.01
"""


def test_a_family_stands_for_every_symbol_of_its_form_that_no_row_names() -> None:
    book = parse_instruments([("a.toml", FAMILY)])
    names = pl.DataFrame({"venue": "v", "symbol": ["BTCUSDT", "ETHUSDT", "1000PEPEUSDT", "ETH-USD", None]})
    found = book.of(names)
    assert dict(found.select("symbol", "base").rows()) == {"BTCUSDT": "BTC", "ETHUSDT": "ETH", "1000PEPEUSDT": "PEPE"}
    sizes = dict(found.select("symbol", "contract_size").rows())
    assert sizes == {"BTCUSDT": 0.01, "ETHUSDT": 1.0, "1000PEPEUSDT": 1000.0}
    Instruments.validate(found)
    assert book.of(names.with_columns(pl.lit("w").alias("venue"))).is_empty()


def test_a_symbol_is_found_from_what_it_trades() -> None:
    book = parse_instruments([("a.toml", FAMILY)])
    assert book.symbol_of("v", "BTC", "USDT", "linear") == "BTCUSDT"
    assert book.symbol_of("v", "ETH", "USDT", "linear") == "ETHUSDT"
    assert book.symbol_of("v", "ETH", "USD", "linear") is None
    assert book.symbol_of("w", "ETH", "USDT", "linear") is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('symbol = "{base}USDT"', 'symbol = "{base}USDT"\nbase = "X"', "a family reads it from the symbol"),
        ('base = "BTC"\n', "", "`base`: Field required"),
        ('symbol = "{base}USDT"', 'symbol = "{base}{base}"', "may stand once"),
    ],
)
def test_a_family_has_its_base_in_the_symbol_and_others_have_it_by_name(old: str, new: str, said: str) -> None:
    assert old in FAMILY
    with pytest.raises(InputError) as error:
        parse_instruments([("a.toml", FAMILY.replace(old, new, 1))])
    assert said in str(error.value)


def test_maintenance_margin_of_the_shipped_tiers_is_continuous_at_every_edge() -> None:
    rows = load_instruments(Config()).rows.filter(pl.col("symbol") == "BTCUSDT").sort("effective_from")
    tiers = rows["tiers"].to_list()[-1]
    assert len(tiers) == 12
    assert [tier["deduction_usd"] for tier in tiers[:3]] == [0.0, 50.0, 950.0]
    assert tiers[-1]["deduction_usd"] == 421_481_450.0
    for low, high in itertools.pairwise(tiers):
        edge = low["notional_usd_max"]
        below = edge * low["maintenance_rate"] - low["deduction_usd"]
        assert below == pytest.approx(edge * high["maintenance_rate"] - high["deduction_usd"], rel=1e-9)


def test_the_instrument_in_force_is_the_latest_that_is_not_in_the_future() -> None:
    text = LINEAR.format(size=1) + '[[instrument]]\nsymbol = "AUSDT"\neffective_from = 2024-06-01T00:00:00Z\n'
    book = parse_instruments([("a.toml", text.replace("06-01T00:00:00Z\n", "06-01T00:00:00Z\ncontract_size = 5\n"))])
    days = [(2024, 7, 1), (2023, 12, 31), (2024, 6, 1), (2024, 5, 31)]
    stamps = [*(datetime(*day, tzinfo=UTC) for day in days), None]
    trades = pl.DataFrame({"venue": "v", "symbol": "AUSDT", "ts": stamps}, schema_overrides={"ts": UTC_US})
    found = with_instrument(trades, book)
    assert found["contract_size"].to_list() == [5.0, None, 5.0, 1.0, None]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('venue = "v"', 'venue = "V v"', "`venue`"),
        ('venue = "v"', 'venue = "../v"', "`venue`"),
        ("contract_size = 1", "contract_size = 0", "`contract_size`"),
        ("contract_size = 1", "contract_size = nan", "`contract_size`"),
        ('settlement = "linear"', 'settlement = "quanto"', "`settlement`"),
        ('quote = "USDT"', 'quote = "BTC"', "`quote`"),
        ('base = "A"', "", "`base`: Field required"),
        ('base = "A"', 'base = "A"\ncolour = "red"', "`colour` is not a field"),
        ("00:00Z", "00:00", "`effective_from`"),
        ('symbol = "AUSDT"', 'symbol = "AUSDT"\nspot_reference = ["x:A"]', "'x:A' is no spot instrument"),
        ("[[instrument]]", "[[instruments]]", "holds only [defaults] and [[instrument]]"),
        ('base = "A"', "base = ", "not TOML"),
    ],
)
def test_every_fault_of_an_instrument_file_is_said_with_its_place(old: str, new: str, said: str) -> None:
    text = LINEAR.format(size=1)
    assert old in text
    with pytest.raises(InputError) as error:
        parse_instruments([("mine.toml", text.replace(old, new))])
    assert said in str(error.value)
    assert "mine.toml" in str(error.value) or "v:AUSDT" in str(error.value)


def test_all_faults_of_all_files_are_listed_at_once() -> None:
    one, two = LINEAR.format(size=0), LINEAR.format(size=-1).replace('venue = "v"', 'venue = "V"')
    with pytest.raises(InputError, match=r"3 faults.*one\.toml.*two\.toml.*two\.toml"):
        parse_instruments([("one.toml", one), ("two.toml", two)])


def test_the_same_instrument_from_the_same_moment_cannot_be_defined_twice() -> None:
    text = LINEAR.format(size=1)
    with pytest.raises(InputError, match="v:AUSDT from 2024-01-01T00:00:00"):
        parse_instruments([("a.toml", text), ("b.toml", text)])


TIER = "{{ notional_usd_max = {}, maintenance_rate = {}, deduction_usd = {}, leverage_max = 10 }}"


@pytest.mark.parametrize(
    ("tiers", "said"),
    [
        ([(100, 0.01, 0), (200, 0.02, 2)], "`deduction_usd` at rate 0.02 must be 1.0, was 2.0"),
        ([(200, 0.01, 0), (100, 0.02, 2)], "`notional_usd_max` must rise"),
        ([(100, 0.02, 0), (200, 0.01, 0)], "`maintenance_rate` must not fall"),
    ],
)
def test_tiers_must_rise_and_be_continuous(tiers: list[tuple[float, float, float]], said: str) -> None:
    text = LINEAR.format(size=1) + "tiers = [" + ", ".join(TIER.format(*tier) for tier in tiers) + "]\n"
    with pytest.raises(InputError, match=said):
        parse_instruments([("a.toml", text)])


def test_a_missing_deduction_is_computed_from_continuity() -> None:
    tiers = "tiers = [{notional_usd_max = 100, maintenance_rate = 0.01, leverage_max = 50}, "
    tiers += "{maintenance_rate = 0.02, leverage_max = 20}]\n"
    rows = parse_instruments([("a.toml", LINEAR.format(size=1) + tiers)]).rows
    # below 100: 1 % of it; from there on 2 % less 100 * (2 % - 1 %) = 1
    assert [tier["deduction_usd"] for tier in rows["tiers"].to_list()[0]] == [0.0, 1.0]
    assert rows["tiers"].to_list()[0][1]["notional_usd_max"] is None


def test_user_files_are_added_and_a_missing_one_is_an_input_error(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(LINEAR.format(size=1))
    assert _symbols(load_instruments(Config(instruments=(mine,))).rows, "v") == ["AUSDT"]
    with pytest.raises(InputError, match=r"absent\.toml"):
        load_instruments(Config(instruments=(tmp_path / "absent.toml",)))


def test_writing_instruments_twice_changes_nothing_and_new_ones_are_added(tmp_path: Path) -> None:
    lake, shipped = Lake(tmp_path), load_instruments(Config()).rows
    assert write_instruments(lake, shipped) == shipped.height
    version = lake.version("instruments")
    assert write_instruments(lake, shipped.reverse()) == 0
    assert lake.version("instruments") == version
    extra = parse_instruments([*shipped_files(), ("a.toml", LINEAR.format(size=1))]).rows
    assert write_instruments(lake, extra) == 1
    stored = lake.scan("instruments").sort("venue", "symbol", "effective_from").collect()
    assert stored.select(extra.columns).equals(extra)


def test_an_instrument_cannot_change_in_place(tmp_path: Path) -> None:
    """Stored trades were sized with the old contract size; another one under the same date would deny that."""
    lake = Lake(tmp_path)
    write_instruments(lake, parse_instruments([("a.toml", LINEAR.format(size=1))]).rows)
    with pytest.raises(InputError, match="v:AUSDT; leave the old row"):
        write_instruments(lake, parse_instruments([("a.toml", LINEAR.format(size=2))]).rows)
    assert lake.scan("instruments").collect()["contract_size"].to_list() == [1.0]
