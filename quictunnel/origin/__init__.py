"""The local service: dialling it, error responses in its place, waiting until it listens."""
