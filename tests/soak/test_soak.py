"""A short soak with faults thick on the ground, `make soak`: the long one is `python -m tests.soak.soak`."""

from pathlib import Path

import pytest

from tests.soak import soak as module
from tests.soak.soak import soak


@pytest.mark.slow
def test_a_disturbed_series_of_runs_ends_like_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without scores, which cost seconds of MLflow: that they are the same is shown with the runs."""
    monkeypatch.setattr(module, "FAULTS", {"killed": 0.4, "disk full": 0.2, "sink down": 0.15, "clock back": 0.1})
    monkeypatch.setattr(module, "FILE_FAULTS", {"late": 0.08, "twice": 0.08, "half written": 0.08})
    found = soak(tmp_path / "soak", 6, seed=3, mb=100, reference_h=24)
    assert found["faults"] == []
    assert found["said"] == []
    assert len({"killed", "disk full", "late", "twice", "half written"} & found["injected"].keys()) >= 3
    assert found["attempts"]["amended ok"] > 0
