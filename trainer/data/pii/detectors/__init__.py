"""Find values of one kind each: patterns, checks of the value, and the words around it."""
