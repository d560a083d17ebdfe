"""Use the tuned model: a batch of rows, a chat in the terminal, an endpoint by an existing server."""
