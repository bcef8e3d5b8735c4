"""Helpers for client and edge: paths, addresses, the event loop thread, supervision of tasks."""
