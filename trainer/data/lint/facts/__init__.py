"""Compute the facts of one row, in the pool that reads the rows."""
