"""Runs what could hang, crash or do harm in processes that are limited and can be replaced."""
