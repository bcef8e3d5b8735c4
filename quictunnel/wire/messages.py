"""The messages of the control stream, with the limits of their fields.

A message is a MessagePack array: its type number, then its fields in order. Decoding is strict: a missing, extra,
mistyped or oversized field is a :class:`ProtocolError`.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from quictunnel.errors import ProtocolError
from quictunnel.wire.codes import BindCode
from quictunnel.wire.labels import MAX_LABEL

MAX_MESSAGE = 16 * 1024
"""Bytes of one encoded message: enough for a full :class:`Credits`, and small enough for a client that has not
authenticated yet."""
MAX_TOKEN = 512
"""Characters of a token; those of this edge have 64."""
MAX_SOFTWARE = 64
MAX_REASON = 200
"""Characters of the reason why a lease is refused."""
MAX_HOST = 253
"""The longest DNS name (RFC 1035 section 2.3.4 less the dots of the wire form)."""
MAX_TICKET = 1024
MAX_CREDITS = 256
"""Entries of one :class:`Credits`; more go into another message."""
MAX_RESUME_ENTRIES = 256
"""Entries of one :class:`ResumeState`; more go into another message."""
SECRET_SIZE = 32
"""Bytes of a session's secret: too many to guess."""
CLIENT_ID_SIZE = 16
"""Bytes of the random identifier of a client object, by which an edge distinguishes clients that use one
ticket."""
MAX_HOLD = 3600
"""Seconds for which an edge may keep a session without a link."""
MAX_OFFSET = (1 << 62) - 1
"""The largest QUIC stream offset (RFC 9000 section 16)."""
MAX_WINDOW = 16 * 1024 * 1024
"""The largest window a receiver may open: 100 Mbit/s at over a second of delay."""
MIN_WINDOW = 1024
"""The smallest initial window of a stream, in bytes."""
MAX_LEASE = (1 << 32) - 1
MAX_GRACE = 3600
"""Seconds of drain that a GoAway may announce."""
MAX_NETWORK = 43
"""Characters of an IPv6 network in CIDR notation."""
MAX_NETWORKS = 64
"""Entries of each list of networks in a Bind; both lists fit into one message."""
MAX_TIME = (1 << 40) - 1
"""Seconds since the epoch: enough for more than ten thousand years."""

# A message whose text does not match is malformed. So a peer cannot send terminal control sequences, nor
# characters that look like others.
PRINTABLE_PATTERN: Final = r"\A[ -~]*\Z"
"""Printable ASCII."""
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST_PATTERN: Final = (
    rf"\A(?:{_LABEL}(?:\.{_LABEL})*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]{{1,32}})?)?\Z"
)
"""A host name of letters, digits, hyphens and underscores, or an IP address, or the empty text."""
ADDRESS_PATTERN: Final = r"\A[0-9A-Za-z:._%/-]*\Z"
"""The characters of numeric addresses and networks."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)]
StreamNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)]
LeaseNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_LEASE)]
Window = Annotated[int, msgspec.Meta(ge=MIN_WINDOW, le=MAX_WINDOW)]
Version = Annotated[int, msgspec.Meta(ge=0, le=255)]
Software = Annotated[str, msgspec.Meta(max_length=MAX_SOFTWARE, pattern=PRINTABLE_PATTERN)]
HostName = Annotated[str, msgspec.Meta(max_length=MAX_HOST, pattern=HOST_PATTERN)]
Domain = Annotated[str, msgspec.Meta(max_length=MAX_HOST, pattern=PRINTABLE_PATTERN)]
"""A domain as a client requests it. Only its characters are checked here, because an invalid domain gets a
BindCode and not a ProtocolError."""
TcpPort = Annotated[int, msgspec.Meta(ge=0, le=65535)]
SessionSecret = Annotated[bytes, msgspec.Meta(max_length=SECRET_SIZE)]
Network = Annotated[str, msgspec.Meta(max_length=MAX_NETWORK, pattern=ADDRESS_PATTERN)]
Networks = Annotated[list[Network], msgspec.Meta(max_length=MAX_NETWORKS)]
Timestamp = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME)]
SealedTicket = Annotated[bytes, msgspec.Meta(max_length=MAX_TICKET)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all control messages."""


class Hello(Message, frozen=True, tag=1):
    """Client, first message: identifies and authenticates the client. The edge rejects any message before it."""

    version: Version
    """The newest protocol version that the client speaks."""
    token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)]
    """The secret that authorises the client; an empty one is valid here, but no edge accepts it."""
    window: Window
    """Bytes that the edge may send on each new stream before the first credit."""
    software: Software
    """Name and version of the program, for logs."""
    session: SessionSecret
    """The secret of the session to resume on this link; empty for a new session."""


class Welcome(Message, frozen=True, tag=2):
    """Edge, in answer to an accepted Hello."""

    version: Version
    """The protocol version of this session; not above the client's."""
    window: Window
    """Bytes that the client may send on each new stream before the first credit."""
    leases: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    """The number of leases that the session may hold at once."""
    software: Software
    session: SessionSecret
    """The secret that resumes this session in a later Hello."""
    resumed: bool
    """True if the session that the Hello named is resumed. Both sides then send ResumeState first."""
    hold: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOLD)]
    """Seconds for which the edge keeps the session without a link."""
    time: Timestamp
    """The edge's clock, in seconds since the epoch. Only for messages about clocks that differ; no decision uses
    it."""
    token_ends: Timestamp
    """Expiry of the token, in seconds since the epoch; 0: it does not expire."""


class Bind(Message, frozen=True, tag=3):
    """Client: requests a lease of a public name, and of a TCP port with ``unencrypted``."""

    lease: LeaseNumber
    """The client's number of the lease, unique within the session; prefaces contain it."""
    unencrypted: bool
    """Also lease a public TCP port, which is not encrypted."""
    h2: bool
    """Offer HTTP/2 to TLS visitors."""
    ticket: SealedTicket
    """The ticket of an earlier Bound, to get the same name and port again; empty for new ones."""
    name: Annotated[str, msgspec.Meta(max_length=MAX_LABEL, pattern=PRINTABLE_PATTERN)] = ""
    """The requested label below the edge's domain; empty: any."""
    tcp_port: TcpPort = 0
    """The requested TCP port, with ``unencrypted``; 0: any."""
    pool: bool = False
    """Share the name and the TCP port with other sessions of the same identity (load balancing)."""
    passthrough: bool = False
    """Forward TLS without terminating it: the edge reads only the server name in the ClientHello."""
    proxy_protocol: Annotated[int, msgspec.Meta(ge=0, le=2)] = 0
    """Begin each stream with a PROXY protocol header of this version; 0: no header."""
    allow: Networks = []
    """Visitor networks to accept, in CIDR notation; empty: all."""
    deny: Networks = []
    """Visitor networks to reject, in CIDR notation; wins over ``allow``."""
    domain: Domain = ""
    """The requested custom domain, whose DNS points to the edge; empty: a name below the edge's domain."""


class BindV2(Bind, frozen=True, tag=11):
    """Client, to an edge that speaks version 2: a Bind that also identifies the client object that sends it."""

    client_id: Annotated[bytes, msgspec.Meta(max_length=CLIENT_ID_SIZE)] = b""
    """Random identifier of the client object (one for each ``Client``), the same in all of its sessions."""
    again: bool = False
    """True if this client has held the lease before. It then does not take the name from another client that has
    used the ticket since."""

    def of_version_1(self) -> Bind:
        """Return the Bind of version 1, without the newer fields."""
        return Bind(*(getattr(self, field) for field in Bind.__struct_fields__))


class Bound(Message, frozen=True, tag=4):
    """Edge: grants the lease. Visitors are accepted from now on."""

    lease: LeaseNumber
    host: Annotated[HostName, msgspec.Meta(min_length=1)]
    port: TcpPort
    """The edge's public TLS port."""
    unencrypted_host: HostName
    """The host of the plain TCP port; empty without ``unencrypted``."""
    unencrypted_port: TcpPort
    ticket: SealedTicket


class BindRefused(Message, frozen=True, tag=5):
    """Edge: refuses the lease, or takes a granted lease away."""

    lease: LeaseNumber
    code: BindCode


class BindRefusedV3(BindRefused, frozen=True, tag=13):
    """Edge, to a client that speaks version 3: a BindRefused that also says why."""

    reason: Annotated[str, msgspec.Meta(max_length=MAX_REASON, pattern=PRINTABLE_PATTERN)] = ""
    """The reason for people, as a clause that begins in lower case, with the limit or range that applies; empty:
    as the code says."""

    def without_reason(self) -> BindRefused:
        """Return the BindRefused of version 1, without the reason."""
        return BindRefused(self.lease, self.code)


class Unbind(Message, frozen=True, tag=6):
    """Client: ends the lease. The edge accepts no new visitors; open streams continue. Also allowed for a refused
    or unconfirmed lease, because a client that timed out does not know."""

    lease: LeaseNumber


class Unbound(Message, frozen=True, tag=7):
    """Edge, in answer to Unbind: the public port is closed. The edge opens no stream of this lease after this
    message."""

    lease: LeaseNumber


class Credits(Message, frozen=True, tag=8):
    """Either side, as a receiver: announces the consumed bytes and the new limits of streams."""

    entries: Annotated[
        list[tuple[StreamNumber, Offset, Offset]], msgspec.Meta(min_length=1, max_length=MAX_CREDITS)
    ]
    """``(stream, consumed, limit)``: offsets in bytes from the start of the stream's direction. The end of the
    direction counts as one more byte. Neither ever decreases."""


class GoAway(Message, frozen=True, tag=9):
    """Edge: announces its shutdown. No new visitors come on this session, except those whose TLS handshake has
    begun; open streams have ``grace`` seconds. The client reconnects for a new session."""

    grace: Annotated[int, msgspec.Meta(ge=0, le=MAX_GRACE)]


class ResumeState(Message, frozen=True, tag=10):
    """Either side, after a Welcome with ``resumed``: the offsets of all its open streams. Several messages if one
    is too small; no other message may come before the last."""

    entries: Annotated[
        list[tuple[StreamNumber, Offset, Offset, Offset]], msgspec.Meta(max_length=MAX_RESUME_ENTRIES)
    ]
    """``(stream, received, consumed, limit)``: bytes before ``received`` need not be sent again; the last two
    are as in Credits. The end of a direction counts as one more byte."""
    last: bool
    """True for the last ResumeState."""


class StreamsAborted(Message, frozen=True, tag=12):
    """Either side, to a peer that speaks version 2: streams that the sender has aborted after both directions had
    arrived, so that QUIC cannot reset them any more."""

    entries: Annotated[
        list[tuple[StreamNumber, Annotated[int, msgspec.Meta(ge=0, le=255)]]],
        msgspec.Meta(min_length=1, max_length=MAX_CREDITS),
    ]
    """``(stream, code)``: the StreamCode that a RESET_STREAM would contain."""


AnyMessage = (
    Hello
    | Welcome
    | Bind
    | BindV2
    | Bound
    | BindRefused
    | BindRefusedV3
    | Unbind
    | Unbound
    | Credits
    | GoAway
    | ResumeState
    | StreamsAborted
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)


def is_host(text: str) -> bool:
    """Return True if a message can contain this text as a host. The empty text is not a host."""
    return bool(text) and len(text) <= MAX_HOST and re.match(HOST_PATTERN, text) is not None


def encode(message: AnyMessage) -> bytes:
    """Return the MessagePack encoding of a message, without the frame's header."""
    return _encoder.encode(message)


def decode(payload: bytes | memoryview) -> AnyMessage:
    """Parse exactly one message.

    Raises:
        ProtocolError: the payload is malformed, or a field exceeds its limit.
    """
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        # The library's message may quote the input, which may be a token; this text never does.
        raise ProtocolError("malformed control message") from None
