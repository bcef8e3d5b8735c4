"""What a process says of itself when it is asked: one JSON object, checked by its reader.

No token and no argument of the program is in it, and nothing that a visitor sent.
"""

from __future__ import annotations

import msgspec

MAX_LISTED = 100
"""Tunnels of one process that are listed; the others are counted. More is a program, not a person's overview."""


class Listed(msgspec.Struct, frozen=True):
    """One tunnel, as ``observation.TunnelStats`` has it, with its addresses."""

    url: str
    tcp: str
    """``host:port`` of its plain TCP socket; empty when it has none."""
    port: int
    """The local port."""
    edge: str
    state: str
    engine: str
    rtt: float | None
    visitors_now: int
    visitors_total: int
    bytes_in: int
    bytes_out: int
    since: float


class Report(msgspec.Struct, frozen=True):
    """One process."""

    pid: int
    program: str
    """Name of the file that was started."""
    software: str
    tunnels: list[Listed]
    unlisted: int = 0
    """How many tunnels there are beyond those listed."""
