"""Faults that the model finds and that are not mended yet."""

from __future__ import annotations

from typing import Final

KNOWN: Final[tuple[str, ...]] = (
    # A visitor that leaves while its refusal, or its dial, is under way: the edge keeps the stream for a minute.
    "a stream that only the edge knows",
    # Two programs with one ticket or one name after two restarts of the edge in a row.
    "the newest holder lost",
    "a program lost its name to an older one",
    # A tunnel that is closed while its client moves from one edge, or from one link, to the next.
    "a name that its program gave up",
    "a session ended without a cause: one ticket was used for two leases",
)
"""Beginnings of their kinds, which tests pass over; empty when all are mended."""
