"""The life of a client's connection to its edge, as a table of states.

:class:`ConnectionStateMachine` enters a state if the table allows it, and tells the client's observers.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable


class ConnectionState(enum.Enum):
    """The states that ``quictunnel.events.State`` documents for users; a tunnel adds ``draining``."""

    CONNECTING = "connecting"
    """No connection to the edge has been made yet."""
    CONNECTED = "connected"
    """The edge carries visitors."""
    MIGRATING = "migrating"
    """The machine's network changed, and the edge has not answered at the new address yet."""
    SUSPECT = "suspect"
    """The edge is silent; another connection is dialled beside this one."""
    AWAY = "away"
    """The connection was lost; visitors wait on both sides for another."""
    RESUMING = "resuming"
    """Another connection is there; both sides say how far their visitors' bytes got."""
    RECONNECTING = "reconnecting"
    """The connection was lost and no visitor waits for another."""
    CLOSED = "closed"
    """Over, because this side wanted it."""
    REFUSED = "refused"
    """Over, because the edge does not accept the token."""
    FAILED = "failed"
    """Over, because trying again will not help for another reason."""


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
    # There is no connection that could migrate or fall silent.
    _S.AWAY: _ENDS | _WITHOUT_CONNECTION | {_S.CONNECTED, _S.RESUMING},
    _S.RECONNECTING: _ENDS | _WITHOUT_CONNECTION | {_S.CONNECTED, _S.RESUMING},
    # A new tunnel dials again.
    _S.REFUSED: _ENDS | {_S.CONNECTED, _S.RECONNECTING},
    _S.FAILED: _ENDS | {_S.CONNECTED, _S.RECONNECTING},
    _S.CLOSED: frozenset(),
}


class ConnectionStateMachine:
    """The state of one client's connection."""

    __slots__ = ("_observe", "state")

    def __init__(self, observe: Callable[[str, str], None]) -> None:
        """``observe(kind, message)`` is told of each change; the kind is the value of the new state."""
        self._observe = observe
        self.state = ConnectionState.CONNECTING

    def enter(self, state: ConnectionState, message: str) -> None:
        """Change to a state and tell observers why, if the table has that change."""
        if state is not self.state and state in TRANSITIONS[self.state]:
            self.state = state
            self._observe(state.value, message)
