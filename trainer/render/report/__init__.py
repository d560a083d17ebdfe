"""The report of a run: one page over all stages."""
