"""Integrations with Jupyter and pytest."""
