"""Repair texts and turns of rows."""
