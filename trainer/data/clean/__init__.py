"""Repairs of texts and turns."""
