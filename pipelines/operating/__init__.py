"""Scheduled runs: what is due, who may run it, its steps, late rows, backfill, unit files."""
