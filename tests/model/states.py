"""The interesting states: a run that has not reached all of them has shown nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections import Counter

EVERYWHERE: Final = frozenset(
    {
        "a link came back",
        "a port was opened again after a restart",
        "a port went to the edge's successor",
        "a visitor came to a port",
        "a visitor of a pool",
        "two programs share a name",
        "a link was cut",
        "a name was given",
        "a program was closed",
        "a program was killed",
        "a second link is dialled beside a sick one",
        "a ticket is used twice",
        "network: address",
        "newcomer while nobody has come yet",
        "resumed",
        "resumed with retained bytes",
        "resumed with visitors",
        "session over at the client: a newer program has its ticket",
        "session over at the edge: a newer program has its ticket",
        "session over at the edge: the edge left",
        "takeover with visitors",
        "the edge was killed",
        "the edge was restarted",
    }
)
"""On any network."""
SCRIPTED: Final = EVERYWHERE | {
    "a close overtakes bytes",
    "a control message arrives in parts",
    "a link is full",
    "a link was lost at the client",
    "a name was banned with visitors",
    "a name was banned within the round trip of a resume",
    "a name was banned without a link",
    "a name was given back during a visitor's handshake",
    "a name was given back with visitors",
    "a name was given back within the round trip of a resume",
    "a name was given back without a link",
    "a name without a ticket went to a newer program",
    "a link was lost at the edge",
    "a program lost its name to the operator",
    "a program was closed while others of its pool go on",
    "a program was killed while others of its pool go on",
    "a reset overtakes bytes",
    "a session at rest",
    "a stream overtakes a control message",
    "a token was revoked with visitors",
    "a token was revoked within the round trip of a resume",
    "a token was revoked without a link",
    "a visitor finished while its tunnel closed",
    "a visitor passes over one of a pool that is away",
    "a visitor that one of a pool refused goes to another",
    "a visitor waits for credit",
    "a visitor was sent away",
    "an old session beside its successor",
    "leaver while the client is away",
    "leaver within the round trip of a resume",
    "network: suspended",
    "network: off_route",
    "newcomer while the client is away",
    "newcomer within the round trip of a resume",
    "reset before the preface",
    "resumed with half-closed visitors",
    "resumed with newcomers",
    "session over at the client: away for too long",
    "session over at the client: its token was revoked",
    "session over at the edge: away for too long",
    "session over at the edge: its token was revoked",
    "stateless reset",
    "the first of two links came back",
    "the peer allows no more streams",
}
"""Over scripted links."""

SIMNET: Final = EVERYWHERE | {"a router changed a port", "a session at rest", "within the round trip of a resume"}
"""Over the simulated network."""


def missing(reached: Counter[str], *, is_scripted: bool) -> list[str]:
    """Return the states that were not reached."""
    return sorted((SCRIPTED if is_scripted else SIMNET) - set(reached))
