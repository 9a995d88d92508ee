"""Sources: every file once, bad ones a note and tried again when they change, nothing read that has not changed."""

import gzip
import os
from pathlib import Path

import pytest

from pipelines import ingest as ingest_module
from pipelines.config import Config, SourceConfig
from pipelines.lake import Lake
from pipelines.operating.lease import LeaseLostError
from pipelines.operating.sources import Intake, take_new

HEADER = "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
ROW = "binance-delivery,AVAXUSD_PERP,17600544014{nth:02d}000,1760054401437753,{nth},buy,22.5,105\n"


def trades(folder: Path, name: str, first: int = 0, rows: int = 3) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(gzip.compress((HEADER + "".join(ROW.format(nth=first + nth) for nth in range(rows))).encode()))
    return path


def settings(*paths: object) -> Config:
    return Config(sources=(SourceConfig(adapter="tardis", paths=tuple(map(str, paths))),))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose bytes were read."""
    seen: list[Path] = []
    read = ingest_module._sha256

    def noting(path: Path) -> str:
        seen.append(path)
        return read(path)

    monkeypatch.setattr(ingest_module, "_sha256", noting)
    return seen


def test_a_second_look_opens_no_file_and_a_new_one_alone_is_read(tmp_path: Path, hashed: list[Path]) -> None:
    lake, config = Lake(tmp_path / "L"), settings(tmp_path / "in" / "*.gz")
    trades(tmp_path / "in", "a_trades.csv.gz")
    assert take_new(lake, config).rows_accepted == 3
    hashed.clear()
    assert take_new(lake, config) == Intake()
    assert hashed == []
    added = trades(tmp_path / "in", "b_trades.csv.gz", first=3)
    assert take_new(lake, config) == Intake(files=1, rows_accepted=3)
    assert set(hashed) == {added}


def test_the_same_bytes_under_another_name_add_no_row(tmp_path: Path) -> None:
    lake, config = Lake(tmp_path / "L"), settings(tmp_path / "in")
    first = trades(tmp_path / "in", "a_trades.csv.gz")
    take_new(lake, config)
    (tmp_path / "in" / "again_trades.csv.gz").write_bytes(first.read_bytes())
    assert take_new(lake, config).rows_accepted == 0
    assert lake.scan("trades").collect().height == 3


def test_a_half_written_file_costs_a_note_keeps_no_other_out_and_is_taken_once_whole(tmp_path: Path) -> None:
    lake, config = Lake(tmp_path / "L"), settings(tmp_path / "in" / "*.gz")
    whole = trades(tmp_path / "in", "a_trades.csv.gz", rows=9).read_bytes()
    (tmp_path / "in" / "a_trades.csv.gz").write_bytes(whole[: len(whole) // 2])
    trades(tmp_path / "in", "b_trades.csv.gz", first=20)
    found = take_new(lake, config)
    assert found.rows_accepted == 3
    assert len(found.notes) == 1
    assert "a_trades.csv.gz" in found.notes[0]
    assert take_new(lake, config) == Intake(), "a bad file that has not changed is left alone"
    (tmp_path / "in" / "a_trades.csv.gz").write_bytes(whole)
    assert take_new(lake, config).rows_accepted == 9


def test_a_file_that_was_touched_is_read_again_and_known_by_its_content(tmp_path: Path, hashed: list[Path]) -> None:
    lake, config = Lake(tmp_path / "L"), settings(tmp_path / "in")
    path = trades(tmp_path / "in", "a_trades.csv.gz")
    take_new(lake, config)
    hashed.clear()
    os.utime(path, ns=(1, 1))
    assert take_new(lake, config).rows_accepted == 0
    assert hashed == [path]


def test_what_the_machine_did_wrong_is_no_fault_of_the_file_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, config = Lake(tmp_path / "L"), settings(tmp_path / "in")
    trades(tmp_path / "in", "a_trades.csv.gz")
    with monkeypatch.context() as broken:
        broken.setattr(ingest_module, "take", _no_space)
        found = take_new(lake, config)
    assert "No space left on device" in found.notes[0]
    assert take_new(lake, config).rows_accepted == 3


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_lost_lease_is_no_fault_of_a_file(tmp_path: Path) -> None:
    def fence() -> None:
        raise LeaseLostError("taken over")

    trades(tmp_path / "in", "a_trades.csv.gz")
    with pytest.raises(LeaseLostError):
        take_new(Lake(tmp_path / "L", fence), settings(tmp_path / "in"))


def test_an_empty_inbox_is_a_note(tmp_path: Path) -> None:
    assert "no file of tardis at" in take_new(Lake(tmp_path / "L"), settings(tmp_path / "in" / "*.gz")).notes[0]
