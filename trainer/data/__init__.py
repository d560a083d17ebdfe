"""Prepare rows: read, make canonical, check, remove duplicates, split. This package never imports torch."""
