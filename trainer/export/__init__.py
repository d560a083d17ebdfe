"""Exported formats: written, reopened in a fresh process, proven."""
