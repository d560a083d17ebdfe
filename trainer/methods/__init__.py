"""Losses and the training process; no training goes through TRL."""
