"""Subcommands of ``python -m edge_server``."""
