"""Files and data sets to raw rows."""
