"""Read raw rows from files and data sets."""
