"""Small venues for the tests of the detectors: iid, autocorrelated with heavy tails, with opposed features."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from models.detectors.suite import Fitted, fit

T0 = datetime(2025, 1, 1, tzinfo=UTC)
FAMILY_OF = {
    "burst": "cancels",
    "pull": "cancels",
    "thin": "thin_book",
    "gap": "thin_book",
    "lever": "leverage",
    "tilt": "crowding",
}
TAILS = {"burst": "high", "pull": "high", "thin": "low", "gap": "high", "lever": "high", "tilt": "both"}
HARMLESS = {"burst": -1.0, "pull": -1.0, "thin": 1.0, "gap": -1.0, "lever": -1.0}  # the direction that is no risk
NAMES = tuple(FAMILY_OF)


def table(values: dict[str, np.ndarray]) -> pl.DataFrame:
    """A feature matrix of one venue from (minutes, features) by symbol."""
    frames = []
    for symbol, rows in values.items():
        stamps = [T0 + timedelta(minutes=i + 1) for i in range(len(rows))]
        columns = {"venue": "v", "symbol": symbol, "ts": stamps, "known_at": stamps}
        frames.append(
            pl.DataFrame(
                columns | dict(zip(NAMES, rows.T, strict=True)),
                schema_overrides={"ts": pl.Datetime("us", "UTC"), "known_at": pl.Datetime("us", "UTC")},
            )
        )
    return pl.concat(frames)


def iid(minutes: int, seed: int, symbols: int = 3) -> pl.DataFrame:
    """Normal features, each with a level and a spread of its own; `burst` and `pull` move together."""
    rng = np.random.default_rng(seed)
    spread = np.array([1.0, 2.0, 0.5, 3.0, 1.0, 4.0])
    values = {}
    for number in range(symbols):
        z = rng.normal(size=(minutes, 6))
        z[:, 1] = 0.8 * z[:, 0] + 0.6 * z[:, 1]
        values[f"S{number}"] = number + spread * z
    return table(values)


def heavy(minutes: int, seed: int, symbols: int = 3) -> pl.DataFrame:
    """AR(1) of 0.9 a minute, driven by Student t of 3 degrees of freedom, with a common part over the symbols."""
    rng = np.random.default_rng(seed)
    driven = rng.standard_t(3, size=(minutes + 200, symbols, 6)) + 0.7 * rng.standard_t(3, size=(minutes + 200, 1, 6))
    for i in range(1, minutes + 200):
        driven[i] += 0.9 * driven[i - 1]
    return table({f"S{number}": driven[200:, number] for number in range(symbols)})


def opposed(minutes: int, seed: int) -> pl.DataFrame:
    """`burst` is high only where `pull` is low: never both."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(minutes, 6))
    z[:, 1] = -z[:, 0] + 0.1 * z[:, 1]
    return table({"S0": z})


def fitted(kind: str, reference: pl.DataFrame, **options: object) -> Fitted:
    return fit(kind, reference, FAMILY_OF, TAILS, **options)  # type: ignore[arg-type]
