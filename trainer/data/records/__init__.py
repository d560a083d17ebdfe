"""Define canonical rows, and the reasons for leaving rows out."""
