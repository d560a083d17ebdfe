"""Turn held-out rows and suite items into questions, and write prompts for them."""
