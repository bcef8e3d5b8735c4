"""Configuration of a client: where edge, token and certificate authority come from."""
