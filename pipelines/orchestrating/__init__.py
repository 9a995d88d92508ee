"""The orchestrator's extra: hours of a lake as Dagster's assets (see README.md of this folder)."""
