"""Records for observers of a client: snapshots on request, and events when they happen.

Plain values only. Observation must not slow the tunnel down: a snapshot reads a few numbers. A subscriber is
called on the client's background thread and must return at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

State = Literal[
    "connecting",
    "connected",
    "migrating",
    "suspect",
    "away",
    "resuming",
    "reconnecting",
    "draining",
    "closed",
    "refused",
    "failed",
]
"""States of a client, and of a tunnel, which has the state of its client:

- ``connecting``: no connection to the edge has been established yet.
- ``connected``: the edge sends visitors to this client.
- ``migrating``: this machine's network changed; the edge has not answered on the connection's new socket yet.
- ``suspect``: the edge has not answered for some seconds; another connection is dialled in parallel.
- ``away``: the connection was lost; both ends keep the session and its visitors for another one.
- ``resuming``: another connection is established; both ends report how many bytes of each visitor have arrived.
- ``reconnecting``: there is no connection and no session to resume; the client dials again.
- ``draining`` (a tunnel only): no new visitors; active ones may finish.
- ``closed``: closed locally.
- ``refused``: ended, because the edge does not accept the token.
- ``failed``: ended by another permanent error.
"""

STATES: frozenset[str] = frozenset(get_args(State))

VISITOR = "visitor"
"""Kind of an event about one public connection."""
ORIGIN = "origin"
"""Kind of an event about the local service: it refused, or answers again."""
WARNING = "warning"
"""Kind of an event that a person should see and that changes no state."""
RESUMED = "resumed"
"""Kind of an event about visitors that continue on another connection after one was lost."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State and figures of a client at one moment. Counts are since the client was created."""

    state: str
    """One of :data:`STATES`."""
    visitors_now: int
    """Public connections that are open."""
    visitors_total: int
    """Public connections that are open, and all that have ended."""
    bytes_in: int
    """Bytes from visitors to the origin."""
    bytes_out: int
    """Bytes from the origin to visitors."""
    rtt: float | None
    """Round-trip time to the edge in seconds; None while there is no connection."""
    engine: str
    """Name of the connection's QUIC engine."""
    resumed: int = 0
    """Times that the session continued on another connection after one was lost."""
    migrated: int = 0
    """Times that the connection moved to another socket because this machine's network changed."""
    reconnected: int = 0
    """Times that a new session replaced one that was lost, or whose edge was shut down."""
    visitors_lost: int = 0
    """Public connections that were cut because their session ended before they had finished."""


@dataclass(frozen=True, slots=True)
class TunnelStats:
    """Figures of one tunnel at one moment. Counts are since it was opened; they stay when it is closed."""

    state: str
    """One of :data:`STATES`: the client's, ``draining`` while the tunnel closes, and ``closed`` afterwards; or
    :data:`LOST`."""
    engine: str
    """Name of the connection's QUIC engine."""
    rtt: float | None
    """Round-trip time to the edge in seconds; None while there is no connection; the last one after the close."""
    visitors_now: int
    """Public connections that are open."""
    visitors_total: int
    """Public connections that are open, and all that have ended."""
    bytes_in: int
    """Bytes from visitors to the origin."""
    bytes_out: int
    """Bytes from the origin to visitors."""
    since: float
    """Time of opening, in seconds since the epoch."""
    until: float | None = None
    """Time of closing, likewise; None while it is open."""


LOST = "lost"
"""Kind of an event about a tunnel that has ended although its client continues: another client has its name, or
the edge's operator has withdrawn it. Also the state of such a tunnel."""


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """Event of a client."""

    kind: str
    """The new state, one of :data:`STATES`, if the state changed; otherwise :data:`VISITOR`, :data:`ORIGIN`,
    :data:`WARNING`, :data:`RESUMED` or :data:`LOST`."""
    message: str
    """A sentence for a person. It may quote bytes of a peer: escape unprintable characters before printing it."""
    time: float
    """Seconds since the epoch."""
