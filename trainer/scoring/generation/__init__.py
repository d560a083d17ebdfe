"""Answers of models: local, replicated, or behind an address."""
