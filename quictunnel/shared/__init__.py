"""Utilities of client, edge and transport: paths, addresses, the event loop's thread, lazy imports.

Imports only ``errors`` of this package.
"""
