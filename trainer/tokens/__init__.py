"""Rows to token ids and loss masks; packs; their files. No torch: the tokenizer is passed in."""
