"""Generate, grade, compare."""
