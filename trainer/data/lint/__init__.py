"""What is known about rows without tokenising them: facts of each row, and findings about all of them."""
