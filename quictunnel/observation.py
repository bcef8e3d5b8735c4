"""What a client tells those who watch it: a snapshot when asked, and events as they happen.

Plain values only. Watching must never slow the tunnel down: taking a snapshot is reading a few numbers, and
a subscriber is called from the client's own thread and must return at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

State = Literal["connecting", "connected", "suspect", "reconnecting", "draining", "closed", "failed"]
"""Where a client is in its life:

connecting      no connection to the edge has been made yet
connected       the edge carries visitors to us
suspect         the edge has not answered for some seconds; another connection is dialled beside this one
reconnecting    the connection was lost; trying again
draining        no new visitors; those under way may finish
closed          over, because this side wanted it
failed          over, because trying again will not help (the token was withdrawn, say)
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
    """How a client is doing at one moment. Counts are since the client was made."""

    state: str
    """One of :data:`STATES`."""
    visitors_now: int
    visitors_total: int
    bytes_in: int
    """Bytes from visitors to the origin."""
    bytes_out: int
    """Bytes from the origin to visitors."""
    rtt: float | None
    """Seconds to the edge and back; None while there is no connection."""
    engine: str
    """Name of the QUIC engine that carries it."""


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """Something happened to a client."""

    kind: str
    """One of :data:`STATES` when the state changed to it; else VISITOR, ORIGIN or WARNING."""
    message: str
    """A sentence for a person. May quote what a peer sent, so whoever prints it makes it printable."""
    time: float
    """Seconds since the epoch."""
