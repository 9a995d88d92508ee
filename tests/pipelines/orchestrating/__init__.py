"""Hours of a lake in Dagster."""
