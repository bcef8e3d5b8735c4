"""Faults that the model finds and that are not mended yet."""

from __future__ import annotations

from typing import Final

KNOWN: Final[tuple[str, ...]] = (
    # A visitor that leaves while its refusal, or its dial, is under way: the edge keeps the stream for a minute.
    "a stream that only the edge knows",
    # Two programs with one ticket or one name after two restarts of the edge in a row.
    "the newest holder lost",
    "a program lost its name to an older one",
    # A link that a client has given up is closed because another one has the session (seed 1, episode 1/47).
    "a session ended without a cause",
)
"""Beginnings of their kinds, which tests pass over; empty when all are mended."""
