"""The messages of the control stream: what each means, who sends it, and how large each field may be.

Encoded as MessagePack arrays: the message's type number, then its fields in order. Decoding is strict: a
missing, extra, mistyped or oversized field is a :class:`ProtocolError`.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

import msgspec

from quictunnel.errors import ProtocolError
from quictunnel.wire.codes import BindCode
from quictunnel.wire.labels import MAX_LABEL

MAX_MESSAGE = 16 * 1024
"""Bytes of one encoded message: room for a full :class:`Credits`, small enough for a stranger's window."""
MAX_TOKEN = 512
"""Characters of a token; ours have 43."""
MAX_SOFTWARE = 64
MAX_HOST = 253
"""The longest DNS name (RFC 1035 section 2.3.4 less the dots of the wire form)."""
MAX_TICKET = 1024
MAX_CREDITS = 256
"""Entries of one :class:`Credits`; more go into another message."""
MAX_STANDINGS = 256
"""Entries of one :class:`ResumeState`; more go into another message."""
SECRET = 32
"""Bytes of a session's secret: not to be guessed, whatever is tried and for how long."""
PROGRAM = 16
"""Bytes by which an edge tells the programs that show one ticket apart."""
MAX_HOLD = 3600
MAX_OFFSET = (1 << 62) - 1
"""The largest QUIC stream offset (RFC 9000 section 16)."""
MAX_WINDOW = 16 * 1024 * 1024
"""The largest window a receiver may open: 100 Mbit/s at over a second of delay."""
MIN_WINDOW = 1024
MAX_LEASE = (1 << 32) - 1
MAX_GRACE = 3600
MAX_NETWORK = 43
"""Characters of an IPv6 network in CIDR notation."""
MAX_NETWORKS = 64
"""In each list of a Bind: both fit into a message together."""
MAX_MOMENT = (1 << 40) - 1
"""Seconds since the epoch: for some ten thousand years."""

# Text of the other side can hold nothing that a terminal obeys, and nothing that looks like something else: what
# does not match is no message.
PLAIN: Final = r"\A[ -~]*\Z"
"""Printable ASCII."""
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
HOST: Final = rf"\A(?:{_LABEL}(?:\.{_LABEL})*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9_.-]{{1,32}})?)?\Z"
"""A host name of letters, digits, hyphens and underscores, or an address; or nothing."""
ADDRESS: Final = r"\A[0-9A-Za-z:._%/-]*\Z"
"""The characters of numeric addresses and networks."""

Offset = Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)]
StreamNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_OFFSET)]
LeaseNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_LEASE)]
Window = Annotated[int, msgspec.Meta(ge=MIN_WINDOW, le=MAX_WINDOW)]
Version = Annotated[int, msgspec.Meta(ge=0, le=255)]
Software = Annotated[str, msgspec.Meta(max_length=MAX_SOFTWARE, pattern=PLAIN)]
HostName = Annotated[str, msgspec.Meta(max_length=MAX_HOST, pattern=HOST)]
Domain = Annotated[str, msgspec.Meta(max_length=MAX_HOST, pattern=PLAIN)]
"""As a client asks for one; what is wrong with it is told in words."""
TcpPort = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Secret = Annotated[bytes, msgspec.Meta(max_length=SECRET)]
Network = Annotated[str, msgspec.Meta(max_length=MAX_NETWORK, pattern=ADDRESS)]
Networks = Annotated[list[Network], msgspec.Meta(max_length=MAX_NETWORKS)]
Moment = Annotated[int, msgspec.Meta(ge=0, le=MAX_MOMENT)]
Ticket = Annotated[bytes, msgspec.Meta(max_length=MAX_TICKET)]


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all control messages."""


class Hello(Message, frozen=True, tag=1):
    """Client, first: who I am. Everything before it is refused, and so is everything after a wrong one."""

    version: Version
    """The newest protocol version the client speaks."""
    token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN)]
    """The secret that authorises the client; may be empty, which no edge accepts."""
    window: Window
    """Bytes the edge may send on each new stream before the first credit."""
    software: Software
    """Name and version, for people and logs."""
    session: Secret
    """The secret of the session that lost its link and goes on with this one; empty for a new session."""


class Welcome(Message, frozen=True, tag=2):
    """Edge, in answer to a good Hello."""

    version: Version
    """The version both will speak; not above the client's."""
    window: Window
    """Bytes the client may send on each new stream before the first credit."""
    leases: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    """How many leases the session may hold at once."""
    software: Software
    session: Secret
    """What to show in a later Hello to go on with this session."""
    resumed: bool
    """Whether the session that the Hello named goes on. Both sides then first say how they stand."""
    hold: Annotated[int, msgspec.Meta(ge=0, le=MAX_HOLD)]
    """Seconds for which the edge keeps the session without a link."""
    time: Moment
    """The edge's clock. To tell a person that two clocks differ; nothing is decided by it."""
    token_ends: Moment
    """From when on the token is not good any more; 0: it has no end."""


class Bind(Message, frozen=True, tag=3):
    """Client: lease me a public name, and a TCP port when ``unencrypted``."""

    lease: LeaseNumber
    """The client's number for it, unique within the session; prefaces carry it."""
    unencrypted: bool
    h2: bool
    """Offer HTTP/2 to TLS visitors."""
    ticket: Ticket
    """What an earlier Bound gave, to get the same name and port again; empty for new ones."""
    name: Annotated[str, msgspec.Meta(max_length=MAX_LABEL, pattern=PLAIN)] = ""
    """The label below the edge's domain that it is to be; empty: any. See ``labels``."""
    tcp_port: TcpPort = 0
    """The TCP port that it is to be, with ``unencrypted``; 0: any."""
    pool: bool = False
    """Share the name, and the TCP port, with others of the same identity that ask for the same."""
    passthrough: bool = False
    """Carry TLS as it comes: the edge reads no more of it than the name in its ClientHello."""
    proxy_protocol: Annotated[int, msgspec.Meta(ge=0, le=2)] = 0
    """Begin each stream with a header of this version of the PROXY protocol; 0: with none."""
    allow: Networks = []
    """Visitors' addresses that may come in, as CIDR; empty: all."""
    deny: Networks = []
    """Visitors' addresses that may not, whatever ``allow`` says."""
    domain: Domain = ""
    """A whole domain that it is to be, whose DNS points to the edge; empty: a name below the edge's own."""


class BindV2(Bind, frozen=True, tag=11):
    """Client, to an edge that speaks version 2: as Bind, and which program it is that asks."""

    program: Annotated[bytes, msgspec.Meta(max_length=PROGRAM)] = b""
    """Random bytes that the program chose when it began, the same in all of its sessions."""
    again: bool = False
    """The program has had this lease before: it is not one that was started with the ticket of another, and must
    not take the name from one that was."""

    def of_version_1(self) -> Bind:
        """Return the part of it that every edge understands."""
        return Bind(*(getattr(self, field) for field in Bind.__struct_fields__))


class Bound(Message, frozen=True, tag=4):
    """Edge: the lease is held, and visitors are accepted from now on."""

    lease: LeaseNumber
    host: Annotated[HostName, msgspec.Meta(min_length=1)]
    port: TcpPort
    """Where TLS visitors reach it."""
    unencrypted_host: HostName
    """Empty when not asked for."""
    unencrypted_port: TcpPort
    ticket: Ticket


class BindRefused(Message, frozen=True, tag=5):
    """Edge: the lease was not given; with REPLACED or BANNED, one that was given has been taken away."""

    lease: LeaseNumber
    code: BindCode


class Unbind(Message, frozen=True, tag=6):
    """Client: accept no more visitors for this lease. Streams in flight go on. Allowed for a
    lease that was refused or never confirmed, which a client that gave up waiting cannot know."""

    lease: LeaseNumber


class Unbound(Message, frozen=True, tag=7):
    """Edge, in answer to Unbind: the public port is closed; no stream of this lease will be opened after
    this message was sent."""

    lease: LeaseNumber


class Credits(Message, frozen=True, tag=8):
    """Either side, as a receiver: how far streams were consumed and how far their senders may go."""

    entries: Annotated[
        list[tuple[StreamNumber, Offset, Offset]], msgspec.Meta(min_length=1, max_length=MAX_CREDITS)
    ]
    """``(stream, consumed, limit)``: offsets in bytes from the start of the stream's direction; the end of
    the direction counts as one more byte. Neither ever goes down."""


class GoAway(Message, frozen=True, tag=9):
    """Edge: I am going to stop. No new visitors come on this session; those in flight have ``grace``
    seconds. Dial again for a new session."""

    grace: Annotated[int, msgspec.Meta(ge=0, le=MAX_GRACE)]


class ResumeState(Message, frozen=True, tag=10):
    """Either side, after a Welcome with ``resumed``: how far every stream that it knows has come. Several of them,
    where one does not hold all; nothing else is said before the last."""

    entries: Annotated[list[tuple[StreamNumber, Offset, Offset, Offset]], msgspec.Meta(max_length=MAX_STANDINGS)]
    """``(stream, received, consumed, limit)``: what arrived and need not be sent again, and the last two as in
    Credits. The end of a direction counts as one more byte."""
    last: bool
    """Whether no more follow."""


class StreamsAborted(Message, frozen=True, tag=12):
    """Either side, to a peer that speaks version 2: streams that the speaker has given up and of which QUIC may
    have no word left to say so, because both directions had arrived."""

    entries: Annotated[
        list[tuple[StreamNumber, Annotated[int, msgspec.Meta(ge=0, le=255)]]],
        msgspec.Meta(min_length=1, max_length=MAX_CREDITS),
    ]
    """``(stream, code)``: what a RESET_STREAM would have said, a StreamCode."""


AnyMessage = (
    Hello
    | Welcome
    | Bind
    | BindV2
    | Bound
    | BindRefused
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
    """Return True for what a message can carry as a host, the empty text excepted."""
    return bool(text) and len(text) <= MAX_HOST and re.match(HOST, text) is not None


def encode(message: AnyMessage) -> bytes:
    """The MessagePack form of a message, without its frame."""
    return _encoder.encode(message)


def decode(payload: bytes | memoryview) -> AnyMessage:
    """Parse one message. Raises ProtocolError for anything but exactly one well-formed message."""
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError):
        # The library's text may quote the input, a token included; ours never does.
        raise ProtocolError("malformed control message") from None
