"""Losses and the training process. The only door to trl."""
