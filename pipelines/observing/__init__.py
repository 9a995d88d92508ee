"""What is known about the runs themselves: logs, metrics, health."""
