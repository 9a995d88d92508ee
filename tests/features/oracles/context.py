"""Oracles of the context family."""

from tests.features.oracles.past import Oracle

ORACLES: dict[str, Oracle] = {}
