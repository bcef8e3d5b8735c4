"""A TLS transport with half-close, on top of a raw TCP transport: for visitors, and for an origin with TLS.

asyncio's own TLS has none: its ``write_eof`` raises, a close_notify ends both directions, and each connection
keeps a 256 KiB read buffer. :class:`TlsTransport` is the protocol of the raw transport below it and the transport
of the application protocol above it. Between them it keeps only the TLS state of one connection.

The application sees the behaviour of a TCP transport: ``eof_received`` for a close_notify, or for a FIN between
two records; ``write_eof`` for ours followed by a FIN; ``abort`` as a real RST; ``pause_reading`` as an end to
reading from the socket.

Names, certificates and refusals are decided by the edge's TLS listener, and for an origin by
:mod:`quictunnel.origin.tls`.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any, Final

from quictunnel.transport import descriptors
from quictunnel.transport.lingering_close import LingeringClose
from quictunnel.transport.splice import POLL_INTERVAL, TlsSplice
from quictunnel.transport.tcp import end_writing, has_reported_error, reset
from quictunnel.transport.tls_records import TlsProtocolError
from quictunnel.transport.unread_bytes import UnreadBytesTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from quictunnel.transport.tls_records import TlsRecords

MAX_UNSOLICITED: Final = 4 * 1024
"""Bytes that TLS itself (not the application) may write while the peer does not read. OpenSSL answers each key
update at once with 27 bytes, and honest peers send one in many gigabytes. Without a bound an attacker fills memory
with them."""


class TruncationError(ConnectionError):
    """The peer's TCP stream ended within a TLS record.

    An end between records without close_notify is not a truncation. RFC 8446 section 6.1 asks for close_notify,
    but most programs, browsers among them, simply close a connection that they are done with. Applications that
    need an explicit end have their own, and a FIN stays a FIN.
    """

    def __init__(self) -> None:
        """Set the fixed message."""
        super().__init__("TCP ended before TLS did")


class _Phase(enum.Enum):
    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    LOST = enum.auto()


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """TLS connection over an established TCP connection. Create it, then call :meth:`begin` once.

    As a server it begins with the visitor's ClientHello, as a client with no bytes."""

    __slots__ = (
        "_close_with_alert",
        "_eof_due",
        "_factory",
        "_is_reading_paused",
        "_is_writing_paused",
        "_loop",
        "_on_handshake_done",
        "_phase",
        "_protocol",
        "_raw",
        "_raw_ended",
        "_records",
        "_server_name",
        "_unread_ciphertext",
        "_unsolicited",
        "handshake_error",
    )

    def __init__(
        self,
        raw: asyncio.Transport,
        records: TlsRecords,
        factory: Callable[[], asyncio.Protocol],
        *,
        loop: asyncio.AbstractEventLoop,
        server_name: str | None = None,
        on_handshake_done: Callable[[bool], None],
        close_with_alert: Callable[[asyncio.Transport, bytes], None],
    ) -> None:
        """Prepare the handshake. Its deadline is the caller's, who then resets the raw transport.

        Args:
            raw: the TCP transport.
            records: TLS state of the connection.
            factory: creates the application's protocol once the handshake is complete, and not before.
            loop: of the transport.
            server_name: for ``get_extra_info``.
            on_handshake_done: called once: with True when the handshake is complete, with False when the
                connection ended without it.
            close_with_alert: takes over the raw transport when TLS fails after the handshake; it delivers an alert
                and closes.
        """
        self._raw: asyncio.Transport = raw
        self._raw_ended = False
        self._records = records
        self._factory = factory
        self._loop = loop
        self._server_name = server_name
        self._on_handshake_done: Callable[[bool], None] | None = on_handshake_done
        self._close_with_alert = close_with_alert
        self.handshake_error: ConnectionError | None = None
        """The error of TLS for which the handshake failed, if it was one."""
        self._protocol: asyncio.Protocol | None = None
        self._phase = _Phase.HANDSHAKE
        self._is_reading_paused = False
        self._is_writing_paused = False
        self._unsolicited = 0
        # Ciphertext that arrived while reading was paused: at most one read of the socket, because the raw
        # transport is paused as well.
        self._unread_ciphertext = b""
        self._eof_due = False

    def begin(self, received: bytes | bytearray) -> None:
        """Take over the raw transport. ``received`` are the bytes that were already read from it."""
        self._raw.set_protocol(self)
        self._handshake(received)

    # The raw transport below calls these.

    def data_received(self, data: bytes) -> None:
        """Continue the handshake, or decrypt."""
        if self._phase is _Phase.OPEN:
            if self._is_reading_paused:
                self._unread_ciphertext += data
            else:
                self._decrypt(data)
        elif self._phase is _Phase.HANDSHAKE:
            self._handshake(data)
        # Otherwise TLS has ended or this side has closed: the bytes are dropped.

    def eof_received(self) -> bool:
        """Handle the peer's FIN. Return True to keep the raw transport open."""
        if self._phase is _Phase.HANDSHAKE:
            return False  # the raw transport closes itself
        if (
            not self._records.is_write_closed
            and has_reported_error(self._raw)
            and not isinstance(self._raw, UnreadBytesTransport)
        ):
            # A reset may look like a FIN here (tcp.has_reported_error). The error of a failed write, which comes
            # soon, tells which it was. If none comes, abort.
            self._loop.call_later(POLL_INTERVAL, self._raw.abort)
            return True
        self._raw_ended = True
        if not self._unread_ciphertext and not self._is_reading_paused:
            self._tcp_ended()
        return True

    def pause_writing(self) -> None:
        """Pass the back-pressure of the raw transport on."""
        self._is_writing_paused = True
        self._unsolicited = 0
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass the end of the back-pressure on."""
        self._is_writing_paused = False
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end to the application, after unread bytes if some are left."""
        descriptors.clear_close_on_fork(self._raw.get_extra_info("socket"))
        if self._read_unread_bytes(exc):
            return
        if self._eof_due and self._phase is _Phase.OPEN:
            self._deliver_eof()  # its close_notify came before the connection broke
        if self._phase is _Phase.OPEN and exc is None:
            exc = TruncationError()  # neither side has ended TLS
        self._phase = _Phase.LOST
        self._unread_ciphertext = b""
        self._on_closed()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(exc)

    def _read_unread_bytes(self, error: Exception | None) -> bool:
        """Start to read the bytes that the kernel may still hold after a failed write. Return False if there can
        be none, or nobody would get them."""
        if self._phase is not _Phase.OPEN or self._records.is_read_closed or self._raw_ended:
            return False
        splice = self._protocol if isinstance(self._protocol, TlsSplice) else None
        if splice is not None and not splice.wants_unread_bytes:
            return False
        rest = UnreadBytesTransport.take(self._raw, self, error)
        if rest is None:
            return False
        self._raw = rest
        self._is_writing_paused = False
        if not self._is_reading_paused:
            rest.resume_reading()
        if splice is not None:
            splice.writing_failed()
        return True

    # Handshake and decryption.

    def _handshake(self, data: bytes | bytearray) -> None:
        try:
            complete, answer, rest = self._records.handshake(data)
        except TlsProtocolError as error:
            self._fail(error)
            return
        if answer:
            self._raw.write(answer)
        if not complete or self._raw.is_closing():
            return
        self._phase = _Phase.OPEN
        self._handshake_done(complete=True)
        protocol = self._protocol = self._factory()
        protocol.connection_made(self)
        if self._is_writing_paused:
            protocol.pause_writing()
        if rest:
            # The application may have paused or closed in connection_made.
            self.data_received(rest)

    def _handshake_done(self, *, complete: bool) -> None:
        on_handshake_done, self._on_handshake_done = self._on_handshake_done, None
        if on_handshake_done is not None:
            on_handshake_done(complete)

    def _decrypt(self, data: bytes) -> None:
        if self._records.is_read_closed:
            return  # RFC 8446 section 6.1: ignored
        try:
            plain, answer, ended = self._records.decrypt(data)
        except TlsProtocolError as error:
            self._fail(error)
            return
        if answer and not self._answer(answer):
            return
        # One call per read of the socket: back-pressure of the application then holds before the next read, and
        # no decrypted bytes wait in here.
        if plain and self._protocol is not None:
            self._protocol.data_received(plain)
        if ended and self._phase is _Phase.OPEN:
            if self._is_reading_paused:
                self._eof_due = True
            else:
                self._deliver_eof()

    def _answer(self, answer: bytes) -> bool:
        if self._records.is_write_closed or self._raw.is_closing():
            return True  # nothing may follow our close_notify
        if self._is_writing_paused:
            self._unsolicited += len(answer)
            if self._unsolicited > MAX_UNSOLICITED:
                self._fail(TlsProtocolError("too many key updates"))
                return False
        self._raw.write(answer)
        return True

    def _tcp_ended(self) -> None:
        """Handle the peer's FIN after all bytes before it were read."""
        if self._phase is not _Phase.OPEN or self._records.is_read_closed:
            return
        if self._records.partial:
            self._fail(TruncationError())
        else:
            self._records.is_read_closed = True
            self._deliver_eof()

    def _deliver_eof(self) -> None:
        self._eof_due = False
        assert self._protocol is not None
        if not self._protocol.eof_received():
            self.close()

    def _resume(self) -> None:
        """Process the ciphertext that arrived while reading was paused, then resume the socket."""
        if self._phase is not _Phase.OPEN or self._is_reading_paused:
            return
        ciphertext, self._unread_ciphertext = self._unread_ciphertext, b""
        if ciphertext:
            self._decrypt(ciphertext)
        elif self._eof_due:
            self._deliver_eof()
        if self._raw_ended and not self._is_reading_paused:
            self._tcp_ended()
        self._resume_raw()

    def _resume_raw(self) -> None:
        if self._phase is _Phase.OPEN and not self._is_reading_paused:
            self._raw.resume_reading()

    # Ends.

    def _fail(self, error: ConnectionError) -> None:
        """End a broken connection. The application sees a reset, and so does the peer, after an alert where TLS
        provides one."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            # Deferred: this may run inside a call of the application.
            self._loop.call_soon(protocol.connection_lost, error)
        self._phase = _Phase.LOST
        if self._on_handshake_done is not None:
            self.handshake_error = error
        alert = error.alert if isinstance(error, TlsProtocolError) else b""
        is_read_only = isinstance(self._raw, UnreadBytesTransport)
        if not alert or is_read_only or self._is_writing_paused or self._records.is_write_closed:
            reset(self._raw)
        elif self._on_handshake_done is not None:
            LingeringClose(self._raw, alert, loop=self._loop, on_closed=self._on_closed)
        else:
            self._close_with_alert(self._raw, alert)

    def _on_closed(self) -> None:
        self._handshake_done(complete=False)

    # The application above calls these.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send. Raises RuntimeError after :meth:`write_eof`."""
        if self._phase is not _Phase.OPEN or self._raw.is_closing():
            return  # connection_lost is on its way; a TCP transport drops these too
        if self._records.is_write_closed:
            raise RuntimeError("write() after write_eof()")
        if data:
            raw = self._raw
            for batch in self._records.encrypt(data):
                if raw.is_closing():
                    break  # the previous batch found the connection closed
                raw.write(batch)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Encrypt and send the pieces as one."""
        # Joined first: a record for each small piece would cost more than the copy.
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        """Send close_notify and a FIN; reading continues."""
        if self._phase is not _Phase.OPEN or self._records.is_write_closed or self._raw.is_closing():
            return
        self._raw.write(self._records.finish())
        end_writing(self._raw)

    def can_write_eof(self) -> bool:
        """Return True."""
        return True

    def pause_reading(self) -> None:
        """Stop reading from the socket."""
        if self._phase is _Phase.OPEN and not self._is_reading_paused:
            self._is_reading_paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Continue reading."""
        if self._phase is not _Phase.OPEN or not self._is_reading_paused:
            return
        self._is_reading_paused = False
        if self._unread_ciphertext or self._eof_due or self._raw_ended:
            # Deferred: a direct call would re-enter the application.
            self._loop.call_soon(self._resume)
        else:
            self._raw.resume_reading()

    def is_reading(self) -> bool:
        """Return True while application data can be received."""
        return self._phase is _Phase.OPEN and not self._is_reading_paused and not self._records.is_read_closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the limits of the raw transport."""
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return the size of the raw transport's buffer."""
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the limits of the raw transport."""
        return self._raw.get_write_buffer_limits()

    def is_closing(self) -> bool:
        """Return True if the connection is closed or closing."""
        return self._phase is _Phase.CLOSING or self._phase is _Phase.LOST or self._raw.is_closing()

    def close(self) -> None:
        """Deliver the written bytes, however long the peer takes, then close_notify, and end."""
        if self._phase is not _Phase.OPEN:
            return
        self._phase = _Phase.CLOSING
        if self._raw.is_closing():
            return
        if not self._records.is_write_closed:
            self._raw.write(self._records.finish())
        self._raw.close()

    def abort(self) -> None:
        """Send a RST at once."""
        if self._phase is not _Phase.LOST:
            self._phase = _Phase.CLOSING
            reset(self._raw)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the application's protocol."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the application's protocol."""
        assert self._protocol is not None
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return ``ssl_object``, ``sslcontext``, ``server_name``, or information of the raw transport."""
        match name:
            case "ssl_object":
                return self._records.tls
            case "sslcontext":
                return self._records.tls.context
            case "server_name":
                return self._server_name
            case _:
                return self._raw.get_extra_info(name, default)
