"""Records for observers of a client: a snapshot when asked, and events as they happen.

Plain values only. Watching must never slow the tunnel down: taking a snapshot is reading a few numbers, and
a subscriber is called from the client's own thread and must return at once.
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
"""States of a client:

connecting      no connection to the edge has been made yet
connected       the edge carries visitors to us
migrating       this machine's network changed; the connection moves on, and the edge has not answered there yet
suspect         the edge has not answered for some seconds; another connection is dialled beside this one
away            the connection was lost; visitors wait on both sides for another
resuming        another connection is there; both sides say how far their visitors' bytes got
reconnecting    the connection was lost and nobody waits for it any more; trying again
draining        no new visitors; those under way may finish
closed          over, because this side wanted it
refused         over, because the edge does not accept the token
failed          over, because trying again will not help for another reason
"""

STATES: frozenset[str] = frozenset(get_args(State))

VISITOR = "visitor"
"""Kind of an event about one public connection."""
ORIGIN = "origin"
"""Kind of an event about the local service: it refused, or answers again."""
WARNING = "warning"
"""Kind of an event that a person should see and that changes no state."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State and figures of a client at one moment. Counts are since the client was made."""

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
    """Seconds to the edge and back; None while there is no connection."""
    engine: str
    """Name of the QUIC engine that carries it."""
    resumed: int = 0
    """Times that visitors went on with another connection after one was lost."""
    migrated: int = 0
    """Times that a connection moved on because this machine's network changed."""
    reconnected: int = 0
    """Times that a new session took the place of one that was lost, or whose edge left."""


@dataclass(frozen=True, slots=True)
class TunnelStats:
    """Figures of one tunnel at one moment. Counts are since it was opened, and stay when it is closed."""

    state: str
    """One of :data:`STATES`, of the link that carries it; ``draining`` while it closes, ``closed`` after; or
    :data:`LOST`."""
    engine: str
    """Name of the QUIC engine that carries it."""
    rtt: float | None
    """Seconds to the edge and back; None while there is no connection; the last one when it is closed."""
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
"""Kind of an event about a tunnel that has ended for good although its client goes on: another client has its
name, or the edge's operator has withdrawn it."""


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """Something happened to a client."""

    kind: str
    """One of :data:`STATES` when the state changed to it; else VISITOR, ORIGIN or WARNING."""
    message: str
    """A sentence for a person. May quote what a peer sent, so whoever prints it makes it printable."""
    time: float
    """Seconds since the epoch."""
