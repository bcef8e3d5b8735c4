"""Status report of a process: one JSON object, which its reader validates.

It contains no token, no argument of the program, and no data from visitors.
"""

from __future__ import annotations

import msgspec

MAX_LISTED = 100
"""Tunnels of one process to list; further ones are only counted, because the list is for people."""


class TunnelStatus(msgspec.Struct, frozen=True):
    """Addresses and counters of one tunnel (see ``TunnelStats``)."""

    url: str
    tcp: str
    """``host:port`` of the plain TCP port; empty without one."""
    port: int
    """The local port; 0 for a Unix socket."""
    edge: str
    state: str
    engine: str
    rtt: float | None
    visitors_now: int
    visitors_total: int
    bytes_in: int
    bytes_out: int
    since: float
    target: str = ""
    """The local service, such as ``localhost:8000``; empty from a program of an earlier version."""


class Report(msgspec.Struct, frozen=True):
    """Status of one process."""

    pid: int
    program: str
    """Name of the started file."""
    software: str
    tunnels: list[TunnelStatus]
    unlisted: int = 0
    """Number of tunnels that are not listed."""
