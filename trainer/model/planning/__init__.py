"""Plans of memory and time before a training, by arithmetic on config.json; no torch."""
