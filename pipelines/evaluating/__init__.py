"""Scores and events from files or from the lake, judged by `models.evaluation`, told as text, JSON and a page."""
