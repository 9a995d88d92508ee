"""A label's version is raised with its definition: what each makes of the same bars is kept here as a digest."""

import hashlib
import inspect

import numpy as np
import polars as pl
import pytest

from features import labels
from features.labels import LABELS, VERSIONS, events
from tests.features.worlds import bars_from

MINUTES = 4 * 1440
# What each version of each label flagged here, and which events that made. A changed definition takes a raised version
# and a line of its own; old lines stay, so that no version is given twice.
DIGESTS = {
    ("oi_flush", 1): "07e2830d1c9d9a0a",
    ("liq_share", 1): "8a8469623344ff93",
    ("drawdown", 1): "2d2629c3c67dc1a1",
    ("move", 1): "73c958d6a5a91864",
    ("liq_burst", 1): "6e62a613bd3f5af5",
    ("adl", 1): "cea8b938823b26dc",
}


def bars() -> pl.DataFrame:
    """A symbol that falls twelve times, by 4 to 28 % within forty minutes, with an hour in which inputs are missing."""
    minutes = np.arange(MINUTES)
    fall = np.zeros(MINUTES)
    for number, start in enumerate(range(1_700, MINUTES - 300, 331)):
        fall[start : start + 40] = (number % 7 + 1) * 0.001
    close = 100.0 * np.exp(0.0004 * (minutes * 7 % 97) / 97 - 0.5 * np.cumsum(fall))
    oi = 1e6 * np.exp(-np.cumsum(fall))
    return bars_from(
        close=close.tolist(),
        oi_base=oi.tolist(),
        oi_usd=np.round(oi * close).astype(int).tolist(),
        oi_age_s=np.where((minutes >= 3_000) & (minutes < 3_060), 1e6, 0.0).tolist(),
        liq_long_usd=np.round(1e9 * fall).astype(int).tolist(),
        liq_short_usd=np.where(minutes % 400 == 0, 5_000_000, 0).tolist(),
    ).with_columns(
        adl_usd=pl.Series([None] * 1_500 + ((fall > 0.004) * 10_000)[1_500:].tolist(), dtype=pl.Int64),
        fund_usd=pl.Series(1e6 * (1 - np.cumsum(fall) / 10)),
    )


OTHERS: dict[str, dict[str, float]] = {name: {"fall_pct": 3.0, "window_min": 15, "sigmas": 2.0} for name in LABELS}
OTHERS["liq_burst"] = {"quantile": 0.95, "floor_usd": 2e6, "window_min": 15}
OTHERS["adl"] = {"fall_pct": 3.0, "window_min": 15}


def digest(name: str) -> str:
    """Of flags and events at the label's own parameters and at others; severities to four digits."""
    seen = bars()
    told = [str(inspect.signature(LABELS[name]))]
    for given in ({}, OTHERS[name]):
        flags = LABELS[name](seen, **given)
        found = events(flags)
        assert found.height >= 2
        assert flags["flag"].null_count() > 0
        told += [
            flags.select(pl.col("flag").cast(pl.Int8).cast(pl.String).fill_null("-")).to_series().str.join().item()
        ]
        told += [f"{row['onset']:%d %H:%M} {row['end']:%d %H:%M} {row['severity']:.3g}" for row in found.to_dicts()]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", LABELS)
def test_a_changed_definition_needs_a_raised_version(name: str) -> None:
    """Would have caught figures of two definitions compared under one name."""
    version = VERSIONS[name]
    assert digest(name) == DIGESTS.get((name, version)), (
        f"{name} v{version} is not what it was: raise VERSIONS[{name!r}] and add its digest {digest(name)!r}"
    )


def test_every_label_has_a_version_and_every_version_a_digest_of_its_own() -> None:
    assert list(VERSIONS) == list(LABELS)
    for name, version in VERSIONS.items():
        assert [number for label, number in DIGESTS if label == name] == list(range(1, version + 1))
        told = [value for (label, _), value in DIGESTS.items() if label == name]
        assert len(set(told)) == len(told)


FLAGS = labels._flags


def stricter(bars: pl.DataFrame, label: str, severity: pl.Expr, fall: float, moved: pl.Expr) -> pl.DataFrame:
    return FLAGS(bars, label, severity, fall * 1.05, moved)


CHANGES = {
    "the scale of an ordinary move": ("oi_flush", "SIGMA_MIN", 720),
    "what a fall is": ("drawdown", "_flags", stricter),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_definition_shows(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, what, other = CHANGES[change]
    before = digest(name)
    monkeypatch.setattr(labels, what, other)
    assert digest(name) != before
