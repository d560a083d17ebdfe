"""Rows: read, made canonical, checked, deduplicated and split. No torch here."""
