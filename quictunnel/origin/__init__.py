"""The local service: dialling it, answering in its place, waiting for it."""
