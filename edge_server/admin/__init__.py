"""The operator's HTTP server: a JSON API and one page.

Needs the extra ``edge``; ``server`` and ``models`` are imported without it.
"""
