"""Who may say what when on the control stream, as a table.

Either side runs one :class:`ControlStateMachine` over both directions: :meth:`ControlStateMachine.sent` for what
it says, :meth:`ControlStateMachine.received` for what it hears. A message outside the table is a ProtocolError.
"""

from __future__ import annotations

import enum

from quictunnel.errors import ProtocolError
from quictunnel.wire.messages import (
    AnyMessage,
    Bind,
    BindRefused,
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
        return Side.EDGE if self is Side.CLIENT else Side.CLIENT


class Phase(enum.Enum):
    """How far the dialogue has come."""

    SILENT = "silent"
    """Nothing was said."""
    GREETED = "greeted"
    """The client said Hello; the edge has not answered."""
    OPEN = "open"
    """The edge said Welcome."""
    LEAVING = "leaving"
    """The edge said GoAway."""


# (phase, speaker, message) -> next phase. What is not here is forbidden.
TRANSITIONS: dict[tuple[Phase, Side, type[AnyMessage]], Phase] = {
    (Phase.SILENT, Side.CLIENT, Hello): Phase.GREETED,
    (Phase.GREETED, Side.EDGE, Welcome): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, Bind): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, BindV2): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, Bound): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, BindRefused): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, Unbind): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, Unbound): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, Credits): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, Credits): Phase.OPEN,
    (Phase.OPEN, Side.CLIENT, StreamsAborted): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, StreamsAborted): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, GoAway): Phase.LEAVING,
    # After a Welcome to a session that goes on; the session sees to it that it is then said first, and once.
    (Phase.OPEN, Side.CLIENT, ResumeState): Phase.OPEN,
    (Phase.OPEN, Side.EDGE, ResumeState): Phase.OPEN,
    # The client cannot know yet that the edge is leaving, so it may still ask; the answer is a refusal.
    (Phase.LEAVING, Side.CLIENT, Bind): Phase.LEAVING,
    (Phase.LEAVING, Side.CLIENT, BindV2): Phase.LEAVING,
    (Phase.LEAVING, Side.EDGE, BindRefused): Phase.LEAVING,
    (Phase.LEAVING, Side.CLIENT, Unbind): Phase.LEAVING,
    (Phase.LEAVING, Side.EDGE, Unbound): Phase.LEAVING,
    (Phase.LEAVING, Side.CLIENT, Credits): Phase.LEAVING,
    # Nor can a client whose session goes on with another link at this moment.
    (Phase.LEAVING, Side.CLIENT, ResumeState): Phase.LEAVING,
    (Phase.LEAVING, Side.EDGE, Credits): Phase.LEAVING,
    (Phase.LEAVING, Side.CLIENT, StreamsAborted): Phase.LEAVING,
    (Phase.LEAVING, Side.EDGE, StreamsAborted): Phase.LEAVING,
}


class ControlStateMachine:
    """The state of one control stream, seen from one side."""

    __slots__ = ("phase", "side")

    def __init__(self, side: Side) -> None:
        self.side = side
        self.phase = Phase.SILENT

    def sent(self, message: AnyMessage) -> None:
        """Note what this side says. A message out of place here is a bug of ours: AssertionError."""
        following = TRANSITIONS.get((self.phase, self.side, type(message)))
        assert following is not None, (
            f"{self.side.value} must not say {type(message).__name__} when {self.phase.value}"
        )
        self.phase = following

    def received(self, message: AnyMessage) -> None:
        """Note what the other side says. Raises ProtocolError when it is not its turn to say that."""
        following = TRANSITIONS.get((self.phase, self.side.other, type(message)))
        if following is None:
            raise ProtocolError(f"unexpected {type(message).__name__} message ({self.phase.value})")
        self.phase = following
