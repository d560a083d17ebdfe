"""Rows of any usual layout to canonical rows."""
