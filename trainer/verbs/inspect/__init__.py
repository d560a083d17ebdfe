"""Show rows of a run as the model sees them, in the terminal; torch only where it is needed."""
