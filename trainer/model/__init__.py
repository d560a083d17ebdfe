"""Base models and adapters: where they are, loading, merging. The only door to bitsandbytes."""
