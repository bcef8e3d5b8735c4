"""State machine of the control stream: a table of the messages that each side may send in each phase.

Each side runs one :class:`ControlStateMachine` over both directions: it calls :meth:`ControlStateMachine.sent` for
each message that it sends and :meth:`ControlStateMachine.received` for each that it receives. A received message
outside the table is a ProtocolError.
"""

from __future__ import annotations

import enum

from quictunnel.errors import ProtocolError
from quictunnel.wire.messages import (
    AnyMessage,
    Bind,
    BindRefused,
    BindRefusedV3,
    BindV2,
    Bound,
    Credits,
    GoAway,
    Hello,
    ResumeState,
    StreamsAborted,
    Unbind,
    Unbound,
    Welcome,
)


class Side(enum.Enum):
    """The two ends of a session."""

    CLIENT = "client"
    EDGE = "edge"

    @property
    def other(self) -> Side:
        """The opposite end."""
        return Side.EDGE if self is Side.CLIENT else Side.CLIENT


class Phase(enum.Enum):
    """Phase of the control stream."""

    SILENT = "silent"
    """No message was sent."""
    GREETED = "greeted"
    """The client has sent Hello; the edge has not answered."""
    OPEN = "open"
    """The edge has sent Welcome."""
    DRAINING = "draining"
    """The edge has sent GoAway."""


# (phase, sender, message) -> next phase. Every other combination is forbidden.
TRANSITIONS: dict[tuple[Phase, Side, type[AnyMessage]], Phase] = {
    (Phase.SILENT, Side.CLIENT, Hello): Phase.GREETED,
    (Phase.GREETED, Side.EDGE, Welcome): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, Bind): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, BindV2): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, Bound): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, BindRefused): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, BindRefusedV3): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, Unbind): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, Unbound): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, Credits): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, Credits): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, StreamsAborted): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, StreamsAborted): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, GoAway): Phase.DRAINING,
    # After a Welcome with ``resumed``. The session enforces that it comes first, and once.
    (Phase.OPEN, Side.CLIENT, ResumeState): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, ResumeState): Phase.OPEN,
    # The client may not have read the GoAway yet, so it may still send a Bind. The edge refuses it.
    (Phase.DRAINING, Side.CLIENT, Bind): Phase.DRAINING,
    (Phase.DRAINING, Side.CLIENT, BindV2): Phase.DRAINING,
    (Phase.DRAINING, Side.EDGE, BindRefused): Phase.DRAINING,
    (Phase.DRAINING, Side.EDGE, BindRefusedV3): Phase.DRAINING,
    (Phase.DRAINING, Side.CLIENT, Unbind): Phase.DRAINING,
    (Phase.DRAINING, Side.EDGE, Unbound): Phase.DRAINING,
    (Phase.DRAINING, Side.CLIENT, Credits): Phase.DRAINING,
    # For the same reason a client that resumes its session at this moment may send its state.
    (Phase.DRAINING, Side.CLIENT, ResumeState): Phase.DRAINING,
    (Phase.DRAINING, Side.EDGE, Credits): Phase.DRAINING,
    (Phase.DRAINING, Side.CLIENT, StreamsAborted): Phase.DRAINING,
    (Phase.DRAINING, Side.EDGE, StreamsAborted): Phase.DRAINING,
}


class ControlStateMachine:
    """The state of one control stream, seen from one side."""

    __slots__ = ("phase", "side")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.phase = Phase.SILENT

    def sent(self, message: AnyMessage) -> None:
        """Record a message that this side sends. A message out of order is a bug: AssertionError."""
        following = TRANSITIONS.get((self.phase, self.side, type(message)))
        assert following is not None, (
            f"{self.side.value} must not send {type(message).__name__} when {self.phase.value}"
        )
        self.phase = following

    def received(self, message: AnyMessage) -> None:
        """Record a message from the peer.

        Raises:
            ProtocolError: the peer may not send this message in this phase.
        """
        following = TRANSITIONS.get((self.phase, self.side.other, type(message)))
        if following is None:
            raise ProtocolError(f"unexpected {type(message).__name__} message ({self.phase.value})")
        self.phase = following
