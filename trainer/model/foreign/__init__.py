"""Validate the files that others wrote, and name file, field and fix, before a library reads them. Imports no torch."""
