"""Personal data and secrets: found by rules with checks, and reported, replaced or refused."""
