"""Jupyter and pytest."""
