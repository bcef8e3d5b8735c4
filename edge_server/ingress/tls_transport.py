"""A server-side TLS transport that can half-close, on top of a raw TCP transport.

asyncio's own TLS cannot: its ``write_eof`` raises, a close_notify ends both directions, and each connection
keeps a 256 KiB read buffer. :class:`TlsTransport` is the protocol of the raw transport below it and the
transport of the application protocol above it; between them it keeps nothing but one visitor's TLS state.

What the application sees is exactly a TCP transport: ``eof_received`` for a close_notify, or a FIN between two
records, ``write_eof`` for ours followed by a FIN, ``abort`` as a real RST, ``pause_reading`` as an end to
reading from the socket.

Nothing is decided here about names, certificates or refusals; see ``front.py``.
"""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Any, Final

from edge_server.ingress.lingering_close import LingeringClose
from edge_server.ingress.tls_records import TlsProtocolError
from quictunnel.transport import descriptors
from quictunnel.transport.remainder import Remainder
from quictunnel.transport.splice import LOOK, TlsSplice
from quictunnel.transport.tcp import end_writing, has_told_error, reset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edge_server.ingress.tls_records import TlsRecords

MAX_UNASKED: Final = 4 * 1024
"""Bytes that TLS itself (not the application) may write while the visitor does not read. OpenSSL answers every
request for new keys at once, 27 bytes each; honest peers make one in many gigabytes, and without a bound a
stranger fills memory with them."""


class TruncationError(ConnectionError):
    """The visitor's TCP stream ended in the middle of a TLS record: more was meant to come.

    One that ends between records without close_notify is not one. RFC 8446 section 6.1 asks for close_notify, but
    most programs that are done with a connection just close it, browsers among them; applications whose
    messages need an end have one of their own, and a FIN stays a FIN."""

    def __init__(self) -> None:
        super().__init__("TCP ended before TLS did")


class _Phase(enum.Enum):
    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    CLOSING = enum.auto()
    LOST = enum.auto()


class TlsTransport(asyncio.Transport, asyncio.Protocol):
    """One visitor's connection after its ClientHello. Make it, then call :meth:`begin` once."""

    __slots__ = (
        "_blocked",
        "_eof_due",
        "_factory",
        "_held",
        "_loop",
        "_on_shaken",
        "_paused",
        "_phase",
        "_protocol",
        "_raw",
        "_raw_ended",
        "_records",
        "_see_out",
        "_server_name",
        "_unasked",
    )

    def __init__(
        self,
        raw: asyncio.Transport,
        records: TlsRecords,
        factory: Callable[[], asyncio.Protocol],
        *,
        loop: asyncio.AbstractEventLoop,
        server_name: str | None = None,
        on_shaken: Callable[[bool], None],
        see_out: Callable[[asyncio.Transport, bytes], None],
    ) -> None:
        """``factory`` makes the application's protocol when the handshake is complete, and not before.
        ``on_shaken`` hears once, with True then or with False when the raw transport is gone without it.
        A deadline for the handshake is the caller's: it resets the raw transport. ``see_out`` takes the raw
        transport over when TLS is broken after the handshake: it delivers an alert and closes."""
        self._raw: asyncio.Transport = raw
        self._raw_ended = False
        self._records = records
        self._factory = factory
        self._loop = loop
        self._server_name = server_name
        self._on_shaken: Callable[[bool], None] | None = on_shaken
        self._see_out = see_out
        self._protocol: asyncio.Protocol | None = None
        self._phase = _Phase.HANDSHAKE
        self._paused = False
        self._blocked = False
        self._unasked = 0
        # Ciphertext that arrived although reading is paused: at most what one read of the socket brings,
        # because the raw transport is paused with us.
        self._held = b""
        self._eof_due = False

    def begin(self, received: bytes | bytearray) -> None:
        """Take over the raw transport; ``received`` is what was already read from it."""
        self._raw.set_protocol(self)
        self._shake(received)

    # The raw transport below calls these.

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.OPEN:
            if self._paused:
                self._held += data
            else:
                self._decrypt(data)
        elif self._phase is _Phase.HANDSHAKE:
            self._shake(data)
        # Otherwise it comes after the end of either TLS or our interest in it.

    def eof_received(self) -> bool:
        if self._phase is _Phase.HANDSHAKE:
            return False  # the raw transport closes itself
        if not self._records.finished and has_told_error(self._raw) and not isinstance(self._raw, Remainder):
            # The write that failed says whether this is an end; if there was none, it is taken for a reset.
            self._loop.call_later(LOOK, self._raw.abort)
            return True
        self._raw_ended = True
        if not self._held and not self._paused:
            self._tcp_ended()
        return True

    def pause_writing(self) -> None:
        self._blocked = True
        self._unasked = 0
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        descriptors.disown(self._raw.get_extra_info("socket"))
        if self._reads_on(exc):
            return
        if self._eof_due and self._phase is _Phase.OPEN:
            self._deliver_eof()  # it had said so before it broke off
        if self._phase is _Phase.OPEN and exc is None:
            exc = TruncationError()  # ended by neither side
        self._phase = _Phase.LOST
        self._held = b""
        self._gone()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(exc)

    def _reads_on(self, error: Exception | None) -> bool:
        """Read on if a connection that broke has something left to be read. Return True if it has."""
        if self._phase is not _Phase.OPEN or self._records.peer_finished or self._raw_ended:
            return False
        splice = self._protocol if isinstance(self._protocol, TlsSplice) else None
        if splice is not None and not splice.wants_remainder:
            return False
        rest = Remainder.take(self._raw, self, error)
        if rest is None:
            return False
        self._raw = rest
        self._blocked = False
        if not self._paused:
            rest.resume_reading()
        if splice is not None:
            splice.writing_failed()
        return True

    # Handshake and decryption.

    def _shake(self, data: bytes | bytearray) -> None:
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
        self._shaken(complete=True)
        protocol = self._protocol = self._factory()
        protocol.connection_made(self)
        if self._blocked:
            protocol.pause_writing()
        if rest:
            # The application may have paused or closed in connection_made.
            self.data_received(rest)

    def _shaken(self, *, complete: bool) -> None:
        on_shaken, self._on_shaken = self._on_shaken, None
        if on_shaken is not None:
            on_shaken(complete)

    def _decrypt(self, data: bytes) -> None:
        if self._records.peer_finished:
            return  # RFC 8446 section 6.1: ignored
        try:
            plain, answer, ended = self._records.decrypt(data)
        except TlsProtocolError as error:
            self._fail(error)
            return
        if answer and not self._answer(answer):
            return
        # One call for one read of the socket: the application's brake then holds before the next, and
        # nothing decrypted ever waits in here.
        if plain and self._protocol is not None:
            self._protocol.data_received(plain)
        if ended and self._phase is _Phase.OPEN:
            if self._paused:
                self._eof_due = True
            else:
                self._deliver_eof()

    def _answer(self, answer: bytes) -> bool:
        if self._records.finished or self._raw.is_closing():
            return True  # nothing may follow our close_notify
        if self._blocked:
            self._unasked += len(answer)
            if self._unasked > MAX_UNASKED:
                self._fail(TlsProtocolError("too many requests for new keys"))
                return False
        self._raw.write(answer)
        return True

    def _tcp_ended(self) -> None:
        """Everything before the visitor's FIN has been read."""
        if self._phase is not _Phase.OPEN or self._records.peer_finished:
            return
        if self._records.partial:
            self._fail(TruncationError())
        else:
            self._records.peer_finished = True
            self._deliver_eof()

    def _deliver_eof(self) -> None:
        self._eof_due = False
        assert self._protocol is not None
        if not self._protocol.eof_received():
            self.close()

    def _resume(self) -> None:
        """What waited while reading was paused; then the socket again."""
        if self._phase is not _Phase.OPEN or self._paused:
            return
        held, self._held = self._held, b""
        if held:
            self._decrypt(held)
        elif self._eof_due:
            self._deliver_eof()
        if self._raw_ended and not self._paused:
            self._tcp_ended()
        self._resume_raw()

    def _resume_raw(self) -> None:
        if self._phase is _Phase.OPEN and not self._paused:
            self._raw.resume_reading()

    # Ends.

    def _fail(self, error: ConnectionError) -> None:
        """The connection is broken. The application hears of it as of a reset, and so does the visitor, after
        an alert where TLS has one to send."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            # Not from inside a call of the application's own.
            self._loop.call_soon(protocol.connection_lost, error)
        self._phase = _Phase.LOST
        words = error.farewell if isinstance(error, TlsProtocolError) else b""
        if not words or self._blocked or self._records.finished or isinstance(self._raw, Remainder):
            reset(self._raw)  # a remainder takes no words
        elif self._on_shaken is not None:
            LingeringClose(self._raw, words, loop=self._loop, on_gone=self._gone)
        else:
            self._see_out(self._raw, words)

    def _gone(self) -> None:
        self._shaken(complete=False)

    # The application above calls these.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._phase is not _Phase.OPEN or self._raw.is_closing():
            return  # connection_lost is on its way; a TCP transport drops these too
        if self._records.finished:
            raise RuntimeError("write() after write_eof()")
        if data:
            raw = self._raw
            for batch in self._records.encrypt(data):
                if raw.is_closing():
                    break  # the batch before this one found the visitor gone
                raw.write(batch)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        # Joined first: a record for each small piece would cost more than the copy.
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if self._phase is not _Phase.OPEN or self._records.finished or self._raw.is_closing():
            return
        self._raw.write(self._records.finish())
        end_writing(self._raw)

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        if self._phase is _Phase.OPEN and not self._paused:
            self._paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._phase is not _Phase.OPEN or not self._paused:
            return
        self._paused = False
        if self._held or self._eof_due or self._raw_ended:
            # Not from inside the application's own call: it would be re-entered.
            self._loop.call_soon(self._resume)
        else:
            self._raw.resume_reading()

    def is_reading(self) -> bool:
        return self._phase is _Phase.OPEN and not self._paused and not self._records.peer_finished

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()

    def is_closing(self) -> bool:
        return self._phase is _Phase.CLOSING or self._phase is _Phase.LOST or self._raw.is_closing()

    def close(self) -> None:
        """Deliver what was written, however long the visitor takes, say close_notify, and end."""
        if self._phase is not _Phase.OPEN:
            return
        self._phase = _Phase.CLOSING
        if self._raw.is_closing():
            return
        if not self._records.finished:
            self._raw.write(self._records.finish())
        self._raw.close()

    def abort(self) -> None:
        """RST, at once."""
        if self._phase is not _Phase.LOST:
            self._phase = _Phase.CLOSING
            reset(self._raw)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "ssl_object":
                return self._records.tls
            case "sslcontext":
                return self._records.tls.context
            case "server_name":
                return self._server_name
            case _:
                return self._raw.get_extra_info(name, default)
