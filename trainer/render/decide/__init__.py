"""The decision page and its table for the terminal, from decide/decision.json."""
