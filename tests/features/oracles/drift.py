"""Oracles of the drift family."""

from tests.features.oracles.past import Oracle

ORACLES: dict[str, Oracle] = {}
