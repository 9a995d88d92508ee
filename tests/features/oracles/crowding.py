"""Oracles of the crowding family."""

from tests.features.oracles.past import Oracle

ORACLES: dict[str, Oracle] = {}
