"""Oracles of the health family."""

from tests.features.oracles.past import Oracle

ORACLES: dict[str, Oracle] = {}
