"""TLS state of one connection: ciphertext in, plaintext out, and the other way. Sans-IO over ``ssl.SSLObject``.

All connections of one event loop share one pair of memory BIOs (:class:`Bios`), because a pair each would keep its
largest flight for as long as the connection is idle. Sharing is safe for one reason, and every method here keeps
to it: **both BIOs are empty between any two calls**. Input that OpenSSL did not take is returned to the caller,
and so is its output. Only ciphertext is ever in a BIO.

Does not depend on transports, protocols and timers.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_RECORD: Final = 16 * 1024
"""Largest plaintext of one record (RFC 8446 section 5.1). A read of this size always empties a record, so no
decrypted bytes stay inside OpenSSL."""

BATCH_SIZE: Final = 4 * MAX_RECORD
"""Plaintext bytes encrypted at a time. Large enough that the calls do not matter; small enough that the shared BIO
and the copy for the socket stay in the processor's cache."""


class TlsProtocolError(ConnectionError):
    """The peer violated TLS, or its certificate is not valid. ``alert`` is the alert to send, possibly empty."""

    def __init__(self, reason: str, alert: bytes = b"", *, certificate_error: str = "") -> None:
        """``reason`` and ``certificate_error`` are OpenSSL's texts; ``alert`` is the encoded alert."""
        super().__init__(reason)
        self.alert = alert
        self.certificate_error = certificate_error
        """Reason why the peer's certificate is not valid; empty for any other error."""


@dataclass(frozen=True, slots=True)
class Bios:
    """The two buffers between OpenSSL and the sockets of one event loop; empty between calls."""

    incoming: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    outgoing: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)


class TlsRecords:
    """One side of a TLS connection."""

    __slots__ = ("_bios", "_tls", "is_read_closed", "is_write_closed", "partial")

    def __init__(self, context: ssl.SSLContext, bios: Bios, *, server_name: str | None = None) -> None:
        """Prepare a handshake.

        Args:
            context: the certificate of a server, or a client's authorities.
            bios: the buffers of the event loop.
            server_name: for the client side: the name to send, and to check the server's certificate against.
                None: the server side.
        """
        self._bios = bios
        self._tls = context.wrap_bio(
            bios.incoming, bios.outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self.is_write_closed = False
        """True once our close_notify was created: nothing can be encrypted any more."""
        self.is_read_closed = False
        """True once the peer's close_notify was read, or its FIN between records: nothing more is decrypted."""
        self.partial = False
        """True within a record: an end here is a truncation. Also True after a message of TLS itself (a key
        update), until the next record; an end there counts as a truncation too."""

    @property
    def tls(self) -> ssl.SSLObject:
        """The ``SSLObject`` for queries (version, cipher, selected ALPN), not for reading or writing."""
        return self._tls

    def handshake(self, data: bytes | bytearray) -> tuple[bool, bytes, bytes]:
        """Continue the handshake. Return whether it is complete, the bytes to send, and the bytes that followed
        it.

        Raises:
            TlsProtocolError: the handshake failed.
        """
        bios = self._bios
        bios.incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False, bios.outgoing.read(), b""
        except ssl.SSLError as error:
            raise self._error(error) from None
        return True, bios.outgoing.read(), bios.incoming.read()

    def decrypt(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """Return the plaintext that ``data`` completes, bytes that TLS itself has to send (nearly always none),
        and whether a close_notify followed. Bytes after it are ignored, as RFC 8446 section 6.1 requires.

        Raises:
            TlsProtocolError: a record is invalid.
        """
        bios = self._bios
        incoming, read = bios.incoming, self._tls.read
        incoming.write(data)
        chunks = []
        self.partial = False
        try:
            # An empty BIO means that no whole record is left; checking it avoids the cost of an exception.
            while incoming.pending:
                chunk = read(MAX_RECORD)
                if not chunk:
                    self._close_read()
                    break
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            self.partial = True  # OpenSSL keeps the partial record
        except ssl.SSLZeroReturnError:
            self._close_read()
        except ssl.SSLError as error:
            raise self._error(error) from None
        plain = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return plain, bios.outgoing.read() if bios.outgoing.pending else b"", self.is_read_closed

    def encrypt(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Yield ``data`` as records, a batch at a time. Each batch has to be taken before the next one is
        requested."""
        write, outgoing = self._tls.write, self._bios.outgoing
        size = len(data)
        if size <= BATCH_SIZE:
            write(data)
            yield outgoing.read()
            return
        view = memoryview(data)
        for start in range(0, size, BATCH_SIZE):
            # A memory BIO takes everything, so a write is never partial.
            write(view[start : start + BATCH_SIZE])
            yield outgoing.read()

    def finish(self) -> bytes:
        """Return our close_notify; empty if it was created before. Reading continues: TLS 1.3 closes its
        directions separately (RFC 8446 section 6.1), and OpenSSL lets TLS 1.2 do the same."""
        if self.is_write_closed:
            return b""
        self.is_write_closed = True
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # OpenSSL would wait for the peer's close_notify, which is read later
        except ssl.SSLError as error:
            return self._error(error).alert
        return self._bios.outgoing.read()

    def _close_read(self) -> None:
        self.is_read_closed = True
        self._bios.incoming.read()

    def _error(self, error: ssl.SSLError) -> TlsProtocolError:
        self._bios.incoming.read()
        # The reason is OpenSSL's text: from its table, not from the peer.
        reason = (error.reason or "TLS failed").lower()
        invalid = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else ""
        return TlsProtocolError(reason, self._bios.outgoing.read(), certificate_error=invalid)
