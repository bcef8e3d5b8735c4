"""Error codes and versions of the session protocol, with the sentences that users see.

Codes are QUIC application error codes (RFC 9000 section 20.2): stream codes are sent in RESET_STREAM and
STOP_SENDING, session codes in CONNECTION_CLOSE, bind codes in BindRefused.
"""

from __future__ import annotations

import enum

PROTOCOL_VERSION = 3
OLDEST_VERSION = 1
"""The oldest version that this program speaks to a peer. Version 1 has no BindV2, version 2 no BindRefusedV3."""
ALPN = "quictunnel/1"


class StreamCode(enum.IntEnum):
    """Reason for the abort of a stream or of one of its directions."""

    ABORTED = 0x01
    """The TCP connection behind the stream was reset."""
    REFUSED = 0x02
    """The origin refused the connection."""
    UNREACHABLE = 0x03
    """The origin could not be reached: a timeout, or the client lacked a resource."""
    UNKNOWN_LEASE = 0x04
    """The preface names a lease that is not (or no longer) held."""
    STALLED = 0x05
    """The last bytes of a broken connection could not be delivered, because the other side reads nothing."""
    CLOSING = 0x06
    """The lease or the session is closing."""


_CODES = frozenset(StreamCode)
_CODE_BITS = 8
"""Bits of a RESET_STREAM's error code for the StreamCode. The bits above hold the stream's number plus one."""


def reset_code(code: StreamCode, stream: int) -> int:
    """Return the error code of an edge's RESET_STREAM, which includes the stream's number.

    A reset discards unsent bytes, even the preface, and the client must learn which number will never arrive.
    """
    return code | (stream + 1) << _CODE_BITS


def stream_code(code: int) -> StreamCode:
    """Return the StreamCode of a peer's error code; an unknown one becomes ABORTED."""
    code &= (1 << _CODE_BITS) - 1
    return StreamCode(code) if code in _CODES else StreamCode.ABORTED


def reset_stream_number(code: int) -> int | None:
    """Return the stream number in a RESET_STREAM's error code, or None if it has none."""
    number = code >> _CODE_BITS
    return number - 1 if number else None


class SessionCode(enum.IntEnum):
    """Reason why a session was refused or ended."""

    DONE = 0x00
    """No error: the closing side has finished."""
    PROTOCOL = 0x10
    """The peer violated the session protocol."""
    UNAUTHORIZED = 0x11
    """The token is missing or wrong."""
    VERSION = 0x12
    """No common protocol version."""
    TOO_SLOW = 0x13
    """No Hello arrived in time."""
    GOING_AWAY = 0x14
    """The edge is shutting down or restarting; reconnect."""
    LINK_REPLACED = 0x15
    """A newer link of the same session took over."""
    INTERNAL = 0x16
    """An internal error of the closing side."""
    OVERLOADED = 0x17
    """The edge is at capacity for clients, in all or with this token; reconnect later."""
    BANNED = 0x18
    """The edge's operator has banned the client's address."""
    TOO_MANY_REQUESTS = 0x19
    """The clients of this token together exceed the edge's rate limit for leases; reconnect."""
    ENDED = 0x1A
    """The edge's operator ended this session; the client may begin another."""
    SUPERSEDED = 0x1B
    """A newer session with the same ticket took the name over. (A client of version 1 gets LINK_REPLACED.)"""
    CLOSED = 0x1C
    """The client was closed and will not reconnect; the session whose secret it sent on this link ends too."""


class BindCode(enum.IntEnum):
    """Reason why a lease was refused or taken away."""

    TOO_MANY = 0x01
    """A limit is reached: of leases of the session, of leases of the token (its own limit, or its share of the
    edge's), or of clients in a pool."""
    NO_PORT = 0x02
    """No TCP port of the edge's range is free within this token's share."""
    H2_FORBIDDEN = 0x03
    """HTTP/2 needs a certificate for a single name, and this edge has only a wildcard certificate."""
    CLOSING = 0x04
    """The edge is draining and takes no new lease."""
    INVALID = 0x05
    """The options of the lease contradict each other, or a name or network in them is invalid."""
    STALE = 0x06
    """A newer ticket of the same name is in use, or the session has used this ticket for another lease."""
    FORBIDDEN = 0x07
    """The token does not allow a lease with these options."""
    NAME_TAKEN = 0x08
    """The name belongs to another token."""
    NAME_RESERVED = 0x09
    """The name is reserved by the edge."""
    PORT_TAKEN = 0x0A
    """The TCP port belongs to another token, is in use, or is outside the edge's range."""
    NOT_SHARED = 0x0B
    """The name is in use by this token and cannot be shared or taken over: one of the two clients does not share
    it or has other options, this session has a lease of the name, or the name was taken over too often lately."""
    NAME_TAKEN_OVER = 0x0C
    """Another client of the same token has taken over the name of this lease."""
    TOO_MANY_NAMES = 0x0D
    """The token is at the limit of names and ports, or at the rate limit for random names."""
    BANNED = 0x0E
    """The edge's operator has banned the name or the TCP port."""
    DOMAIN_FORBIDDEN = 0x0F
    """The token does not allow the domain."""
    DOMAIN_ELSEWHERE = 0x10
    """The domain does not resolve to an address of the edge."""
    NO_CERTIFICATE = 0x11
    """The edge has no certificate for the domain and cannot obtain one."""


SESSION_SENTENCES: dict[SessionCode, str] = {
    SessionCode.DONE: "The session was closed.",
    SessionCode.PROTOCOL: "The peer violated the protocol.",
    SessionCode.UNAUTHORIZED: "The edge refused the token.",
    SessionCode.VERSION: "Client and edge speak different versions of the protocol; upgrade the older one.",
    SessionCode.TOO_SLOW: "The client sent no Hello in time.",
    SessionCode.GOING_AWAY: "The edge is shutting down.",
    SessionCode.LINK_REPLACED: "A newer connection of the same client took over.",
    SessionCode.SUPERSEDED: "A newer instance of this program has taken over the name.",
    SessionCode.INTERNAL: "The peer had an internal error.",
    SessionCode.BANNED: "The edge's operator has banned this address.",
    SessionCode.TOO_MANY_REQUESTS: "The clients of this token sent too many requests in a short time.",
    SessionCode.ENDED: "The edge's operator has ended the session.",
    SessionCode.CLOSED: "The client was closed.",
    SessionCode.OVERLOADED: (
        "The edge is at capacity for clients, in all or with this token: stop a client that is not needed, or try "
        "again later."
    ),
}

BIND_REFUSALS: dict[BindCode, tuple[str, str]] = {
    BindCode.TOO_MANY: (
        "The edge's limit of tunnels for this client or its token is reached.",
        "Close a tunnel that is not needed, or ask the edge's operator for a higher limit.",
    ),
    BindCode.NO_PORT: (
        "The edge has no free TCP port for this token.",
        "Close a tunnel that has one, try again later, or ask the edge's operator to widen --tcp-ports.",
    ),
    BindCode.H2_FORBIDDEN: (
        "HTTP/2 is not possible with this edge's certificate of several names: browsers would mix up tunnels.",
        "The edge's operator can provide certificates for single names, or allow it with --allow-wildcard-h2.",
    ),
    BindCode.CLOSING: ("The edge is shutting down and accepts no new tunnel.", "Try again in a moment."),
    BindCode.STALE: (
        "Another program has used this tunnel's ticket later and has its name.",
        "Stop that program, or start without the ticket.",
    ),
    BindCode.FORBIDDEN: (
        "The token does not allow a tunnel with these options.",
        "Ask the edge's operator for a token that does, or leave the option out.",
    ),
    BindCode.NAME_TAKEN: ("The name belongs to another client.", "Choose another name."),
    BindCode.NAME_RESERVED: (
        "The name is reserved, and the token does not allow it.",
        "Choose another name, or ask the edge's operator.",
    ),
    BindCode.PORT_TAKEN: (
        "The TCP port is not available: it belongs to another client, is in use, or is outside the edge's range.",
        "Choose another port, or let the edge choose one.",
    ),
    BindCode.NOT_SHARED: (
        "Another client with the same token has this name, and keeps it.",
        "To share a name, all of its clients must set pool=True (--pool).",
    ),
    BindCode.NAME_TAKEN_OVER: (
        "Another program with the same token has taken over the name.",
        "To share the name, start both with --pool (pool=True).",
    ),
    BindCode.TOO_MANY_NAMES: (
        "The edge's limit of names and ports for this token is reached.",
        "Use one that it has (a ticket keeps a random name), or ask the edge's operator to release some.",
    ),
    BindCode.BANNED: (
        "The edge's operator has banned this name or TCP port.",
        "Choose another one, or ask the operator.",
    ),
    BindCode.DOMAIN_FORBIDDEN: (
        "The token does not allow this domain.",
        "The edge's operator can make a token that does with `quictunnel-edge token create --domains DOMAIN`.",
    ),
    BindCode.DOMAIN_ELSEWHERE: (
        "The domain does not point to the edge.",
        "Add a CNAME record to a name of the edge, or A and AAAA records, and try again when caches have them.",
    ),
    BindCode.NO_CERTIFICATE: (
        "The edge has no certificate for this domain and does not request one.",
        "Its operator can enable that with --acme; with tls='passthrough' the local service uses its own.",
    ),
    BindCode.INVALID: ("The edge does not serve a tunnel with these options.", "Check the options of the tunnel."),
}
"""For each code, what happened, and what to do."""

BIND_SENTENCES: dict[BindCode, str] = {code: " ".join(both) for code, both in BIND_REFUSALS.items()}
"""Both in one text."""
