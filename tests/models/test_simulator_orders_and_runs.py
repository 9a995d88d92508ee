"""Order identifiers tell cancels from fills; many runs at once give what one after the other gives."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from features.schema import CANONICAL
from models.simulator import VenueSettings, simulate, simulate_runs
from models.simulator.orders import OPENING_ORDERS, UNKNOWN, OrderQueue

START = datetime(2025, 1, 1, 6, tzinfo=UTC)
ROUGH = VenueSettings(
    symbols=("AAA-PERP", "BBB-PERP"), accounts=60, step_s=60, volatility_day=0.3, leverage_median=25.0
)
NAMED = replace(ROUGH, order_ids=True)


def events_of(world: VenueSettings, hours: int = 3) -> pl.DataFrame:
    return pl.concat([hour["book_events"] for hour in simulate(world, 5, START, hours)])


@pytest.fixture(scope="module")
def named() -> pl.DataFrame:
    return events_of(NAMED).with_columns(usd=pl.col("price") * pl.col("qty"))


# the queue


def by_hand(orders: list[tuple[int, float]], events: list[tuple[int, float]]) -> list[tuple[int, int, float]]:
    """The slow way: take from the oldest order until the event is paid."""
    rows, last = [], OPENING_ORDERS
    for event, (kind, usd) in enumerate(events):
        if kind == 0:
            last += 1
            orders.append((last, usd))
            rows.append((event, last, usd))
            continue
        left = usd
        while left > 0 and orders:
            order, held = orders[0]
            part = min(left, held)
            rows.append((event, order, part))
            left -= part
            orders[0] = (order, held - part)
            if orders[0][1] == 0:
                orders.pop(0)
    return rows


whole_dollars = st.integers(1, 50).map(float)
some_events = st.lists(st.tuples(st.integers(0, 2), whole_dollars), max_size=30)


@given(some_events, st.lists(whole_dollars, min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_a_queue_gives_what_taking_from_the_oldest_order_gives(
    events: list[tuple[int, float]], resting: list[float]
) -> None:
    queue, plenty = OrderQueue(), 2_000.0  # the last resting order is never used up
    held = [*resting, plenty]
    queue.order, queue.usd = np.arange(1, len(held) + 1), np.array(held)
    orders = list(enumerate(held, 1))
    touched = queue.touch(np.array([k for k, _ in events], dtype=np.int64), np.array([usd for _, usd in events]))
    expected = by_hand(orders, events)
    assert touched.event.tolist() == [event for event, _, _ in expected]
    assert touched.order.tolist() == [order for _, order, _ in expected]
    assert touched.usd.tolist() == pytest.approx([usd for _, _, usd in expected])
    assert queue.order.tolist() == [order for order, _ in orders]
    assert queue.usd.tolist() == pytest.approx([usd for _, usd in orders])


def test_what_no_order_holds_has_no_name_and_an_empty_side_begins_anew() -> None:
    queue = OrderQueue()
    queue.agree(100.0)
    touched = queue.touch(np.array([1]), np.array([130.0]))
    assert touched.order[-1] == UNKNOWN
    assert touched.usd[-1] == pytest.approx(30.0)
    queue.agree(70.0)
    assert (queue.order.tolist(), queue.usd.tolist()) == ([OPENING_ORDERS + 1], [70.0])


# the table


def test_without_the_setting_orders_have_no_names() -> None:
    assert events_of(ROUGH, 1)["order_id"].null_count() == events_of(ROUGH, 1).height > 0


def test_naming_orders_changes_neither_the_world_nor_its_dollars(named: pl.DataFrame) -> None:
    plain = events_of(ROUGH).with_columns(usd=pl.col("price") * pl.col("qty"))
    assert plain.height < named.height < 2 * plain.height
    keys = ["symbol", "side", "event", "ts", "price"]
    sums = [frame.group_by(keys).agg(pl.col("usd").sum()).sort(keys) for frame in (plain, named.select(plain.columns))]
    assert_frame_equal(sums[0], sums[1], abs_tol=0.05)
    for table in ("trades", "positions", "liquidations"):
        one, other = (next(simulate(world, 5, START, 1))[table] for world in (ROUGH, NAMED))
        assert_frame_equal(one, other)


def test_every_event_names_its_order_and_numbers_go_on_without_a_gap(named: pl.DataFrame) -> None:
    CANONICAL["book_events"].validate(named.drop("usd"))
    assert named["order_id"].null_count() == 0
    for _, events in named.group_by("symbol"):
        assert events.sort("ts", "seq")["seq"].to_list() == list(range(1, events.height + 1))


def test_an_order_is_created_once_and_gives_no_more_than_it_has(named: pl.DataFrame) -> None:
    born = pl.col("event") == "add"
    lives = (
        named.sort("symbol", "ts", "seq")
        .with_row_index("at")
        .group_by("symbol", "order_id")
        .agg(
            births=born.sum(),
            born_at=pl.col("at").filter(born).first(),
            first_at=pl.col("at").first(),
            came=pl.col("usd").filter(born).sum(),
            went=pl.col("usd").filter(~born).sum(),
        )
    )
    seen = lives.filter(pl.col("births") > 0)
    assert seen.height > 500
    assert (seen["births"] == 1).all()
    assert (seen["born_at"] == seen["first_at"]).all()
    assert (seen["went"] <= seen["came"] * 1.01 + 1).all()
    assert (seen["went"] > 0).any()
    opening = pl.col("order_id").str.slice(1).cast(pl.Int64) <= OPENING_ORDERS
    assert lives.filter(pl.col("births") == 0).filter(~opening).is_empty()


def test_some_orders_are_filled_and_others_cancelled(named: pl.DataFrame) -> None:
    ends = named.filter(pl.col("event") != "add").group_by("symbol", "order_id").agg(pl.col("event").unique())
    assert {"cancel", "trade"} == set(ends["event"].explode())
    assert ends.filter(pl.col("event").list.len() == 1).height > 10


# runs


def liquidated_usd(hours: Iterable[dict[str, pl.DataFrame]]) -> tuple[int, float]:
    sums = [(hour["trades"].height, float(hour["liquidations"]["notional_usd"].sum())) for hour in hours]
    return sum(rows for rows, _ in sums), sum(usd for _, usd in sums)


def test_runs_in_several_processes_equal_runs_one_after_the_other() -> None:
    small, seeds = replace(ROUGH, accounts=20), (3, 1, 2, 9)
    serial = list(simulate_runs(small, seeds, START, 1))
    parallel = list(simulate_runs(small, seeds, START, 1, workers=2))
    assert [seed for seed, _ in parallel] == list(seeds)
    for (_, mine), (_, theirs) in zip(serial, parallel, strict=True):
        assert list(mine) == list(theirs)
        for table, frame in mine.items():
            assert_frame_equal(frame, theirs[table])
    assert not serial[0][1]["trades"].equals(serial[1][1]["trades"])


def test_of_each_run_only_what_is_asked_for_is_kept() -> None:
    [(seed, kept)] = simulate_runs(ROUGH, [5], START, 2, keep=liquidated_usd)
    assert seed == 5
    assert kept == liquidated_usd(simulate(ROUGH, 5, START, 2))
    assert kept[0] > 100


def test_runs_that_cannot_be_are_refused_before_the_first_begins() -> None:
    with pytest.raises(ValueError, match="`workers`"):
        simulate_runs(ROUGH, [], START, 1, workers=0)
    with pytest.raises(ValueError, match="full hour"):
        simulate_runs(ROUGH, [1], START.replace(minute=5), 1, workers=2)
