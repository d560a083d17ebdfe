"""What a canonical row is, and why a row is left out."""
