"""Intervals and comparisons, honest about rows that belong together."""
