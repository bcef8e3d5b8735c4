"""States of a client's connection to its edge, and the table of transitions.

:class:`ConnectionStateMachine` enters a state if the table allows it, and notifies the client's observers.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class ConnectionState(enum.Enum):
    """The states that ``quictunnel.events.State`` documents for users."""

    CONNECTING = "connecting"
    """No connection to the edge has been made yet."""
    CONNECTED = "connected"
    """The edge carries visitors."""
    MIGRATING = "migrating"
    """The machine's network changed, and the edge has not answered at the new address yet."""
    SUSPECT = "suspect"
    """The edge does not answer; another connection is dialled in parallel."""
    AWAY = "away"
    """The connection was lost; both sides keep the session and its visitors for another one."""
    RESUMING = "resuming"
    """Another connection exists; both sides report how many bytes of each visitor have arrived."""
    RECONNECTING = "reconnecting"
    """There is no connection and no session to resume: the connection was lost, or the first dial has failed."""
    CLOSED = "closed"
    """Closed locally."""
    REFUSED = "refused"
    """Ended, because the edge does not accept the token."""
    FAILED = "failed"
    """Ended by another permanent error."""


_S = ConnectionState
_ENDS: Final = frozenset({_S.CLOSED, _S.REFUSED, _S.FAILED})
_WITH_CONNECTION: Final = frozenset({_S.CONNECTED, _S.MIGRATING, _S.SUSPECT, _S.RESUMING})
_WITHOUT_CONNECTION: Final = frozenset({_S.AWAY, _S.RECONNECTING})

# state -> states that may follow. An event that comes too late for its state changes nothing.
TRANSITIONS: Final[dict[ConnectionState, frozenset[ConnectionState]]] = {
    _S.CONNECTING: _ENDS | {_S.CONNECTED, _S.RECONNECTING},
    _S.CONNECTED: _ENDS | _WITH_CONNECTION | _WITHOUT_CONNECTION,
    _S.MIGRATING: _ENDS | _WITH_CONNECTION | _WITHOUT_CONNECTION,
    _S.SUSPECT: _ENDS | _WITH_CONNECTION | _WITHOUT_CONNECTION,
    _S.RESUMING: _ENDS | _WITH_CONNECTION | _WITHOUT_CONNECTION,
    # There is no connection that could migrate or become suspect.
    _S.AWAY: _ENDS | _WITHOUT_CONNECTION | {_S.CONNECTED, _S.RESUMING},
    _S.RECONNECTING: _ENDS | _WITHOUT_CONNECTION | {_S.CONNECTED, _S.RESUMING},
    # A new tunnel dials again.
    _S.REFUSED: _ENDS | {_S.CONNECTED, _S.RECONNECTING},
    _S.FAILED: _ENDS | {_S.CONNECTED, _S.RECONNECTING},
    _S.CLOSED: frozenset(),
}


class ConnectionStateMachine:
    """The state of one client's connection."""

    __slots__ = ("_publish", "state")

    def __init__(self, publish: Callable[[str, str], None]) -> None:
        """``publish(kind, message)`` is called at each transition; the kind is the value of the new state."""
        self._publish = publish
        self.state = ConnectionState.CONNECTING

    def enter(self, state: ConnectionState, message: str) -> None:
        """Enter a state and notify observers with the reason, if the table has that transition."""
        if state is not self.state and state in TRANSITIONS[self.state]:
            self.state = state
            self._publish(state.value, message)
