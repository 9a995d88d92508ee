"""What every test shares: hypothesis profiles and where the real market data lies."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.examples import LONG, LONG_EXAMPLES

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"

LONGEST = (
    "test_tracking_service", "test_steps", "test_demo", "test_closed_loop", "test_runs", "test_ingest", "test_replay",
    "test_distributed_steps", "test_poll", "test_dagster", "test_stress", "test_serve_opened", "test_train",
    "test_gate", "test_decide", "test_real_day", "test_guard_without_model", "test_book", "test_tracking",
    "test_distributed", "test_fuzz", "test_simulator",
)  # fmt: skip

settings.register_profile("quick", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", deadline=None, max_examples=LONG_EXAMPLES, suppress_health_check=list(HealthCheck))
settings.load_profile("long" if LONG else "quick")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: with several workers, one that begins last would keep the others waiting."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def real_data() -> Path:
    if not REAL_DATA.is_dir():
        pytest.skip(f"real market data is not there: {REAL_DATA}")
    return REAL_DATA
