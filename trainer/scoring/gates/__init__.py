"""Gates: what they cover, whether they can pass, and whether they do."""
