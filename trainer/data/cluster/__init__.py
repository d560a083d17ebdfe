"""Run the data stage on the machines of a cluster."""
