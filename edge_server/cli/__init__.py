"""Subcommands of ``quictunnel-edge``."""
