"""Write trained weights in every format, reopen each in a fresh process, and prove it equal to the trained model."""
