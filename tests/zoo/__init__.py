"""A tiny random model of every causal model type of transformers: shapes as data."""
