"""Used by client, edge and transport alike: paths, addresses, the event loop's thread, imports made late.

Imports nothing but ``errors``.
"""
