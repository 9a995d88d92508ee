"""Oracles of the structure family."""

from tests.features.oracles.past import Oracle

ORACLES: dict[str, Oracle] = {}
