"""Replace values by placeholders, masks or pseudonyms."""
