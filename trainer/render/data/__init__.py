"""The data page and its table for the terminal, from data/report.json."""
