"""A strict parser for a TLS ClientHello: the server name and the protocols that a visitor offers.

Sans-IO: bytes in, a :class:`ClientHello` or one :class:`HelloError` out. No sockets, no clock, no TLS library. For
any input, no other exception is raised and at most :data:`MAX_CLIENT_HELLO` bytes are read. The result depends on
the bytes alone, never on how TCP or TLS split them.

Routing by the name is up to the caller.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from quictunnel.wire.labels import LABEL

MAX_CLIENT_HELLO: Final = 16 * 1024
"""Bytes on the wire, record headers included, that a ClientHello may take. Browsers with post-quantum key shares
and ECH send about 2 KiB; the bound leaves room for each such message even in records of one byte."""

MAX_NAME: Final = 253
"""Characters of a host name: 255 octets on the wire of DNS (RFC 1035 section 2.3.4) are 253 characters of text."""

_MAX_RECORD: Final = 1 << 14  # RFC 8446 section 5.1
_RECORD_HEADER: Final = 5
_MESSAGE_HEADER: Final = 4
_HANDSHAKE: Final = 22
_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0  # RFC 6066 section 3
_ALPN: Final = 16  # RFC 7301 section 3.1

# With the space that ends them, so that a longer word with the same beginning does not match.
# PRI is the preface of HTTP/2 without TLS (RFC 9113 section 3.4).
_HTTP_METHODS: Final = tuple(
    word.encode() + b" "
    for word in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI")
)

_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Alert(enum.IntEnum):
    """TLS alerts that this edge sends itself (RFC 8446 section 6.2)."""

    UNEXPECTED_MESSAGE = 10
    RECORD_OVERFLOW = 22
    ILLEGAL_PARAMETER = 47
    DECODE_ERROR = 50
    PROTOCOL_VERSION = 70
    INTERNAL_ERROR = 80
    MISSING_EXTENSION = 109
    CERTIFICATE_UNOBTAINABLE = 111
    """The name has no certificate yet (RFC 6066 section 9; reserved in TLS 1.3)."""
    UNRECOGNIZED_NAME = 112


class HelloError(Exception):
    """The first bytes of a visitor are not an acceptable ClientHello.

    ``alert`` is the answer to send; None if the visitor does not speak TLS and would not understand one.
    ``reason`` is for this program only and contains nothing that the visitor sent.
    """

    def __init__(self, alert: Alert | None, reason: str) -> None:
        """``alert``: to send, or None; ``reason``: a fixed text."""
        super().__init__(reason)
        self.alert = alert
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The fields of a ClientHello that routing needs."""

    server_name: str | None
    """Server name in lower case, without a trailing dot: letters, digits and hyphens only. None without one."""
    alpn: tuple[str, ...]
    """Offered protocols in the visitor's order, one character per byte; not validated further."""
    length: int
    """Bytes of the message on the wire; bytes received beyond it belong to the handshake."""


@dataclass(frozen=True, slots=True)
class PlainHttp:
    """The result for a visitor without TLS: the first bytes are an HTTP request."""


class ClientHelloReader:
    """Reads one ClientHello, however it is split.

    ``received`` keeps all input, because the TLS library reads it again. After a result or an error the reader
    must not be used again.
    """

    __slots__ = ("_in_record", "_is_tls", "_message", "_position", "received")

    def __init__(self) -> None:
        """Start without input."""
        self.received = bytearray()
        self._message = bytearray()
        self._position = 0
        self._in_record = 0
        self._is_tls = False

    def feed(self, data: bytes) -> ClientHello | PlainHttp | None:
        """Take more bytes. Return the result, or None while the message is incomplete. Raises HelloError."""
        self.received += data
        if not self._is_tls:
            if not self.received:
                return None
            if self.received[0] != _HANDSHAKE:
                return self._not_tls()
            self._is_tls = True
        while self._position < len(self.received):
            if not self._in_record and not self._open_record():
                return None
            if self._take_fragment():
                return _read_message(bytes(self._message), self._position)
        return None

    def _not_tls(self) -> PlainHttp | None:
        start = bytes(self.received[:8])
        if start.startswith(_HTTP_METHODS):
            return PlainHttp()
        if any(method.startswith(start) for method in _HTTP_METHODS):
            return None
        raise HelloError(None, "not TLS")

    def _open_record(self) -> bool:
        start = self._position
        header = self.received[start : start + _RECORD_HEADER]
        if len(header) < _RECORD_HEADER:
            return False
        kind, major, length = header[0], header[1], int.from_bytes(header[3:5])
        if major != 3:
            # The minor version of a record is ignored (RFC 8446 section 5.1); another major one is not TLS.
            raise HelloError(None, "not TLS")
        if kind != _HANDSHAKE:
            raise HelloError(Alert.UNEXPECTED_MESSAGE, "another record inside the ClientHello")
        if length > _MAX_RECORD:
            raise HelloError(Alert.RECORD_OVERFLOW, "a record above 16 KiB")
        if length == 0:
            raise HelloError(Alert.DECODE_ERROR, "an empty handshake record")  # RFC 8446 section 5.1
        if start + _RECORD_HEADER + length > MAX_CLIENT_HELLO:
            raise HelloError(Alert.DECODE_ERROR, "a ClientHello above 16 KiB")
        self._position = start + _RECORD_HEADER
        self._in_record = length
        return True

    def _take_fragment(self) -> bool:
        """Move the available part of the current record into the message. Return True when the message is
        complete."""
        end = min(self._position + self._in_record, len(self.received))
        message = self._message
        message += self.received[self._position : end]
        self._in_record -= end - self._position
        self._position = end
        if message and message[0] != _CLIENT_HELLO:
            raise HelloError(Alert.UNEXPECTED_MESSAGE, "not a ClientHello")
        if len(message) < _MESSAGE_HEADER:
            return False
        size = _MESSAGE_HEADER + int.from_bytes(message[1:4])
        if size > MAX_CLIENT_HELLO:
            raise HelloError(Alert.DECODE_ERROR, "a ClientHello above 16 KiB")
        if len(message) + self._in_record > size:
            # Nothing may share its last record: the keys change after it (RFC 8446 section 5.1).
            raise HelloError(Alert.UNEXPECTED_MESSAGE, "bytes after the ClientHello in its record")
        return len(message) == size


class _Fields:
    """A cursor over one message; a length that does not fit raises a decode_error."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, size: int) -> bytes:
        piece = self._data[self._position : self._position + size]
        if len(piece) < size:
            raise HelloError(Alert.DECODE_ERROR, "a field longer than the message")
        self._position += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, prefix: int, minimum: int, maximum: int) -> bytes:
        size = self.number(prefix)
        if not minimum <= size <= maximum:
            raise HelloError(Alert.DECODE_ERROR, "a field outside its bounds")
        return self.take(size)

    def finish(self) -> None:
        if self:
            raise HelloError(Alert.DECODE_ERROR, "bytes after the last field")


def _read_message(message: bytes, length: int) -> ClientHello:
    """Parse the message by RFC 8446 section 4.1.2, which fits every ClientHello since TLS 1.0."""
    fields = _Fields(message[_MESSAGE_HEADER:])
    if fields.number(2) >> 8 != 3:
        raise HelloError(Alert.PROTOCOL_VERSION, "an unknown protocol version")
    fields.take(32)
    fields.vector(1, 0, 32)
    if len(fields.vector(2, 2, 0xFFFE)) % 2:
        raise HelloError(Alert.DECODE_ERROR, "half a cipher suite")
    if 0 not in fields.vector(1, 1, 0xFF):
        raise HelloError(Alert.ILLEGAL_PARAMETER, "no uncompressed method is offered")
    # Before TLS 1.3 a ClientHello may end here (RFC 5246 section 7.4.1.2).
    extensions = _Fields(fields.vector(2, 0, 0xFFFF) if fields else b"")
    fields.finish()
    name: str | None = None
    alpn: tuple[str, ...] = ()
    seen: set[int] = set()
    while extensions:
        kind = extensions.number(2)
        body = extensions.vector(2, 0, 0xFFFF)
        if kind in seen:
            raise HelloError(Alert.ILLEGAL_PARAMETER, "an extension twice")  # RFC 8446 section 4.2
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _read_server_name(body)
        elif kind == _ALPN:
            alpn = _read_alpn(body)
    return ClientHello(name, alpn, length)


def _read_server_name(body: bytes) -> str:
    fields = _Fields(body)
    names = _Fields(fields.vector(2, 1, 0xFFFF))
    fields.finish()
    if names.number(1) != 0:
        raise HelloError(Alert.UNRECOGNIZED_NAME, "a server name of unknown type")
    raw = names.vector(2, 1, 0xFFFF)
    if names:
        raise HelloError(Alert.ILLEGAL_PARAMETER, "more than one server name")  # RFC 6066 section 3
    return read_host_name(raw)


def read_host_name(raw: bytes) -> str:
    """Return the host name in lower case, without a trailing dot. Raises HelloError if it is no valid host
    name."""
    # The message is well-formed but the name cannot exist: answer as for any unknown name.
    unknown = Alert.UNRECOGNIZED_NAME
    if len(raw) > MAX_NAME + 1:
        raise HelloError(unknown, "a server name above 253 characters")
    try:
        name = raw.decode("ascii").lower().removesuffix(".")
    except UnicodeDecodeError:
        raise HelloError(unknown, "a server name that is not ASCII") from None
    labels = name.split(".")
    if len(name) > MAX_NAME or not all(map(LABEL.fullmatch, labels)):
        raise HelloError(unknown, "a server name that is no host name")
    if _NUMBER.fullmatch(labels[-1]):
        # RFC 6066 section 3 forbids addresses. IPv6 has failed above; resolvers read a name whose last label is
        # a number as IPv4, in one of its notations.
        raise HelloError(unknown, "an IP address as the server name")
    return name


def _read_alpn(body: bytes) -> tuple[str, ...]:
    fields = _Fields(body)
    offered = _Fields(fields.vector(2, 2, 0xFFFF))
    fields.finish()
    protocols = []
    while offered:
        protocols.append(offered.vector(1, 1, 0xFF).decode("latin-1"))
    return tuple(protocols)
