"""Derive findings from the facts of all rows and the counts of other steps."""
