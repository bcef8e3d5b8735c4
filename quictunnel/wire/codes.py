"""Numbers that travel: stream codes, session codes, and the versions. People see their sentences.

Codes are QUIC application error codes (RFC 9000 section 20.2): stream codes ride in RESET_STREAM and
STOP_SENDING, session codes in CONNECTION_CLOSE and in ``Refused``.
"""

from __future__ import annotations

import enum

PROTOCOL_VERSION = 2
OLDEST_VERSION = 1
"""Peers of older versions are spoken to in theirs; version 1 has no BindV2."""
ALPN = "quictunnel/1"


class StreamCode(enum.IntEnum):
    """Why one direction of a stream, or all of it, ended otherwise than by its end."""

    ABORTED = 0x01
    """The TCP connection behind it was reset."""
    REFUSED = 0x02
    """The origin refused the connection."""
    UNREACHABLE = 0x03
    """The origin could not be reached: not in time, or for want of something that the client needs for it."""
    UNKNOWN_LEASE = 0x04
    """The preface names a lease that is not (or no longer) held."""
    STALLED = 0x05
    """The last bytes of a broken connection could not be delivered: the other side takes nothing in."""
    CLOSING = 0x06
    """The lease or the session is closing."""


_CODES = frozenset(StreamCode)
_CODE_BITS = 8
"""Bits of a RESET_STREAM's error code that hold the StreamCode; those above hold the stream's number plus one."""


def numbered(code: StreamCode, stream: int) -> int:
    """The error code of an edge's RESET_STREAM, which names the stream as well: a reset destroys what was not sent
    yet, the preface too, and the client has to know which number it will never see."""
    return code | (stream + 1) << _CODE_BITS


def stream_code(code: int) -> StreamCode:
    """A peer's error code as one of ours; an unknown one is an abort."""
    code &= (1 << _CODE_BITS) - 1
    return StreamCode(code) if code in _CODES else StreamCode.ABORTED


def numbered_stream(code: int) -> int | None:
    """The number of the stream that an error code names, or None."""
    number = code >> _CODE_BITS
    return number - 1 if number else None


class SessionCode(enum.IntEnum):
    """Why a session was refused or ended."""

    DONE = 0x00
    """Nothing is wrong: the side that closes has finished."""
    PROTOCOL = 0x10
    """The peer broke the session protocol."""
    UNAUTHORIZED = 0x11
    """The token is missing or wrong."""
    VERSION = 0x12
    """No common protocol version."""
    TOO_SLOW = 0x13
    """The peer did not introduce itself in time."""
    GOING_AWAY = 0x14
    """The edge is shutting down or restarting; dial again."""
    REPLACED = 0x15
    """A newer link of the same session took over."""
    INTERNAL = 0x16
    """A fault of this side."""
    OVERLOADED = 0x17
    """The edge has no room for another client now, or for another with this token; dial again later."""
    BANNED = 0x18
    """The edge's operator lets nobody in from there."""
    TOO_MANY_REQUESTS = 0x19
    """All that show the same token have asked for more leases in a short time than the edge takes; dial again."""
    ENDED = 0x1A
    """The edge's operator ended this session; nothing keeps its client from beginning another."""
    SUPERSEDED = 0x1B
    """A newer session has the name that this one held by its ticket. (A client of version 1 is told REPLACED.)"""
    CLOSED = 0x1C
    """The client is closed for good, and with it the session whose secret it showed on this link."""


class BindCode(enum.IntEnum):
    """Why a lease was refused."""

    TOO_MANY = 0x01
    """The session, or all that show the same token, hold as many leases as they may: by the token's rights, or by
    its share of what the edge has."""
    NO_PORT = 0x02
    """No TCP port of the edge's range is free for this token, which may have its share of them."""
    H2_FORBIDDEN = 0x03
    """HTTP/2 needs a certificate for one name alone, and this edge has only a wildcard."""
    CLOSING = 0x04
    """The edge is draining and takes no new lease."""
    INVALID = 0x05
    """The options of the lease contradict each other."""
    STALE = 0x06
    """A newer ticket of the same name is in use."""
    FORBIDDEN = 0x07
    """The token does not allow it."""
    NAME_TAKEN = 0x08
    """The name is somebody else's."""
    NAME_RESERVED = 0x09
    """The edge keeps the name for itself."""
    PORT_TAKEN = 0x0A
    """The TCP port is somebody else's, in use, or not one of the edge's."""
    NOT_SHARED = 0x0B
    """Another client of the same identity holds the name, and one of the two does not share it."""
    REPLACED = 0x0C
    """Another client of the same identity has taken the name of a lease that was given."""
    TOO_MANY_NAMES = 0x0D
    """The edge keeps no more names and ports for one identity, or gives it no more random names now."""
    BANNED = 0x0E
    """The operator has withdrawn the name."""
    DOMAIN_FORBIDDEN = 0x0F
    """The token does not allow the domain."""
    DOMAIN_ELSEWHERE = 0x10
    """The domain does not resolve to an address of the edge."""
    NO_CERTIFICATE = 0x11
    """The edge has no certificate for the domain, and no way to get one."""


SESSION_SENTENCES: dict[SessionCode, str] = {
    SessionCode.DONE: "The session was closed.",
    SessionCode.PROTOCOL: "The peer broke the protocol.",
    SessionCode.UNAUTHORIZED: "The edge refused the token.",
    SessionCode.VERSION: "Client and edge speak different versions of the protocol; upgrade the older one.",
    SessionCode.TOO_SLOW: "The client did not introduce itself in time.",
    SessionCode.GOING_AWAY: "The edge is shutting down.",
    SessionCode.REPLACED: "A newer connection of the same client took over.",
    SessionCode.SUPERSEDED: "This program was started again, and its newer self has the name.",
    SessionCode.INTERNAL: "The peer failed.",
    SessionCode.BANNED: "The edge's operator lets nobody in from this address.",
    SessionCode.TOO_MANY_REQUESTS: "Too much was asked of the edge in too short a time with this token.",
    SessionCode.ENDED: "The edge's operator has ended the session.",
    SessionCode.CLOSED: "The client was closed.",
    SessionCode.OVERLOADED: (
        "The edge has no room for another client now, or none for another with this token: "
        "end one that is not needed, or try again later."
    ),
}

BIND_SENTENCES: dict[BindCode, str] = {
    BindCode.TOO_MANY: (
        "There are as many tunnels already as the edge allows to this client, or to its token; "
        "close one that is not needed."
    ),
    BindCode.NO_PORT: (
        "The edge has no free TCP port for this token; close a tunnel that has one, try again later, or ask the "
        "edge's operator to widen --tcp-ports."
    ),
    BindCode.H2_FORBIDDEN: (
        "This edge has only a wildcard certificate, and HTTP/2 with it would let browsers mix up tunnels; "
        "its operator can mint certificates for single names or allow it with --allow-wildcard-h2."
    ),
    BindCode.CLOSING: "The edge is shutting down and takes no new tunnel.",
    BindCode.STALE: (
        "A newer holder of this tunnel's ticket has its name. Stop the other program, or go without the ticket."
    ),
    BindCode.FORBIDDEN: "The token does not allow a tunnel with these options; ask the operator of the edge.",
    BindCode.NAME_TAKEN: "The name belongs to somebody else. Choose another.",
    BindCode.NAME_RESERVED: (
        "The edge gives this name to nobody whose token does not say so; choose another, or ask its operator."
    ),
    BindCode.PORT_TAKEN: "The TCP port is not to be had: it is somebody else's, in use, or not one of the edge's.",
    BindCode.NOT_SHARED: (
        "Another client with the same token has this name. To share it, all of them have to say so (pool=True); "
        "and a name that keeps going from one to the other stays with the one that has it."
    ),
    BindCode.REPLACED: "Another client with the same token has taken the name; this tunnel has ended.",
    BindCode.TOO_MANY_NAMES: (
        "The edge has given this token as many names and ports as it gives to one. Use one of them (a ticket "
        "keeps a random one), or have its operator release some (`python -m edge_server name`)."
    ),
    BindCode.BANNED: "The operator of the edge has withdrawn this name.",
    BindCode.DOMAIN_FORBIDDEN: (
        "The token does not allow this domain; the operator of the edge makes one that does with "
        "`python -m edge_server token create --domains DOMAIN`."
    ),
    BindCode.DOMAIN_ELSEWHERE: (
        "The domain does not point to the edge: let its DNS have a CNAME to a name of the edge, or its addresses "
        "(A, AAAA), and try again when caches have forgotten what was there before."
    ),
    BindCode.NO_CERTIFICATE: (
        "The edge has no certificate for this domain and gets none by itself (its operator can turn that on with "
        "--acme); with tls='passthrough' the local service shows its own."
    ),
    BindCode.INVALID: "The edge does not serve a tunnel with these options.",
}
