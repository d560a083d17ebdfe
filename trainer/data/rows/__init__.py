"""Convert rows of any usual layout to canonical rows."""
