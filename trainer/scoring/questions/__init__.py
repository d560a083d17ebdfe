"""Held-out rows and suite items as questions, and prompts for them."""
