"""`doctor` as a whole: the summary, its words, its README, and the coverage plot of the report."""

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from pipelines.doctor import DoctorSummary, doctor_sentence, table_rows
from pipelines.doctoring.checks import CHECKS, examined
from pipelines.doctoring.findings import SCHEMA, SEVERITIES, finding, findings, ranked
from pipelines.lake import Lake
from pipelines.reporting.coverage import COLUMNS, Coverage, coverage_view, gather_coverage
from pipelines.times import Interval
from tests.pipelines.doctor_worlds import T0, at, evidence, open_interest, refusal

README = Path(__file__).parents[2] / "pipelines" / "doctoring" / "README.md"
HOUR = 3600.0


def gappy() -> pl.DataFrame:
    """Hourly open interest of one day without the hours 10 and 11."""
    return open_interest([{"t": HOUR * n, "oi_usd": 100.0 + n} for n in range(24) if n not in (10, 11)])


def summary(found: pl.DataFrame) -> DoctorSummary:
    feed = evidence(open_interest=gappy(), refused=[refusal(1, 5, "duplicate_key", table="open_interest")])
    return DoctorSummary(23, 22, 1, table_rows(feed).to_dicts(), [], [], found.to_dicts())


def test_every_check_has_its_row_in_the_readme() -> None:
    rows = [line for line in README.read_text().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [check.__name__ for check in CHECKS]


def test_a_table_row_counts_gaps_duplicates_and_latency() -> None:
    row = summary(findings([])).tables[0]
    assert (row["table"], row["venue"], row["rows"], row["symbols"]) == ("open_interest", "v", 22, 1)
    assert (row["gaps"], row["gap_longest_s"], row["duplicates_refused"]) == (1, 3 * HOUR, 1)
    assert (row["latency_p50_ms"], row["latency_negative"]) == (0.0, 0)


def test_the_sentence_tells_the_worst_first_and_names_symbols_it_does_not_tell_in_full() -> None:
    def row(severity: str, symbol: str) -> dict[str, object]:
        return finding(
            severity, "gaps", "marks", ("v", symbol), (T0, T0), rows=1, what=f"what of {symbol}", mend="mend"
        )  # type: ignore[arg-type]  # given below

    found = ranked(findings([row("note", "N"), *(row("defect", name) for name in "ABCD")]))
    said = doctor_sentence(summary(found))
    assert said.startswith("23 rows read = 22 accepted + 1 quarantined\n")
    assert said.index("defects:") < said.index("what of A") < said.index("the like in C, D") < said.index("notes:")
    assert "what of C" not in said
    assert "nothing looks wrong" in doctor_sentence(summary(findings([])))


def test_findings_are_ranked_and_can_be_written_as_json() -> None:
    found = examined(evidence(open_interest=gappy(), refused=[refusal(1, 5, "crossed_book")]))
    assert found.schema == SCHEMA
    order = [SEVERITIES.index(severity) for severity in found["severity"]]  # type: ignore[arg-type]  # known words
    assert order == sorted(order)
    assert found.height >= 2
    assert "crossed_book" in json.dumps(asdict(summary(found)), default=str)


# --- the coverage plot -----------------------------------------------------------------------------------------------

DAY = Interval(T0, T0 + timedelta(days=1))


@pytest.fixture
def coverage(tmp_path: Path) -> Coverage:
    lake = Lake(tmp_path / "lake")
    lake.append("open_interest", gappy().filter(pl.col("ts") > T0), "one")
    columns = evidence(refused=[refusal(1, 0, "x")]).quarantine.collect_schema()
    rows = [refusal(nth, HOUR * 12 + 60 * nth, "crossed_book", table="open_interest") for nth in range(10)]
    lake.append("quarantine", pl.DataFrame(rows, schema=columns), "two")
    return gather_coverage(lake, ("v",), DAY)


def test_the_plot_shows_rows_a_silence_and_refusals_where_they_are(coverage: Coverage) -> None:
    plot = coverage_view(coverage, DAY)
    assert [(row["symbol"], row["table"]) for row in plot["rows"]] == [("BTCUSDT", "open interest")]
    row, hour = plot["rows"][0], COLUMNS / 24
    assert row["said"] == "21 rows, 10 refused, 1 silent"
    silent = row["silent"][0]
    assert (silent["x"], silent["width"]) == (9 * hour, 3 * hour)
    assert silent["said"] == "silent from 2025-01-01 09:00:00Z to 12:00:00Z"
    first, second = row["held"]  # hourly rows are one band up to the gap, and one after it
    assert (first["x"] + first["width"], second["x"]) == (9 * hour, 12 * hour - 1)
    assert row["refused"] == [{"x": 12 * hour - 1, "width": 4}]  # 12:00 closes a column; 12:01 to 12:09 fill three


def test_a_venue_that_is_not_reported_is_not_drawn(coverage: Coverage, tmp_path: Path) -> None:
    assert coverage.held.height
    assert gather_coverage(Lake(tmp_path / "lake"), ("w",), DAY).held.is_empty()
    assert coverage_view(gather_coverage(Lake(tmp_path / "none"), ("v",), DAY), DAY)["rows"] == []


def test_where_there_are_too_many_rows_those_without_a_fault_are_left_out(coverage: Coverage) -> None:
    many = pl.concat([coverage.held, *(coverage.held.with_columns(symbol=pl.lit(f"A{nth:03}")) for nth in range(100))])
    plot = coverage_view(Coverage(many, coverage.refused, coverage.spells, coverage.steps), DAY)
    assert (len(plot["rows"]), plot["left_out"]) == (60, 41)
    assert "BTCUSDT" in {row["symbol"] for row in plot["rows"]}


def test_the_first_and_last_moment_of_the_interval_bound_the_axis(coverage: Coverage) -> None:
    ticks = coverage_view(coverage, DAY)["ticks"]
    assert [tick["text"] for tick in ticks] == [f"{hour % 24:02}:00Z" for hour in range(0, 25, 4)]
    assert at(86_400) == DAY.end
