"""The operator's window into an edge: an HTTP server of its own, a JSON API, and one page.

Needs the extra ``edge``; ``server``, ``command`` and ``view`` are imported without it.
"""
