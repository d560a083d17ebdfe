"""Find pairs of rows that repeat or contradict each other."""
