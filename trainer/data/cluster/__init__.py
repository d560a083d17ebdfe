"""The data stage on the machines of a cluster."""
