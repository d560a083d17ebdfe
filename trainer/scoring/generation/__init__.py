"""Generate answers with local models, with copies on several cards, or through an address."""
