"""One visitor's TLS state: ciphertext in, plaintext out, and the other way. Sans-IO over ``ssl.SSLObject``.

All visitors of one event loop share one pair of memory BIOs (:class:`Bios`), because a pair each would keep
its largest flight for as long as the connection idles. Sharing is safe for one reason, and every method here
keeps to it: **both BIOs are empty between any two calls**. What OpenSSL did not take goes back to the caller,
what it wants sent is returned. Only ciphertext ever lies in a BIO.

Must not know: transports, protocols, timers.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD: Final = 16 * 1024
"""The most plaintext of one record (RFC 8446 section 5.1). A read of this size always empties a record, so
nothing decrypted stays behind inside OpenSSL."""

BATCH: Final = 4 * RECORD
"""Plaintext encrypted at a time. Large enough that calls do not count, small enough that the shared BIO and
the copy which the socket gets stay in the processor's cache."""


class TlsProtocolError(ConnectionError):
    """The visitor broke TLS. ``farewell`` is the alert to send, possibly empty."""

    def __init__(self, reason: str, farewell: bytes = b"") -> None:
        super().__init__(reason)
        self.farewell = farewell


@dataclass(frozen=True, slots=True)
class Bios:
    """The two buffers between OpenSSL and the sockets of one event loop; empty whenever nobody is inside."""

    incoming: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    outgoing: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)


class TlsRecords:
    """The server's end of one TLS connection."""

    __slots__ = ("_bios", "_tls", "finished", "partial", "peer_finished")

    def __init__(self, context: ssl.SSLContext, bios: Bios) -> None:
        self._bios = bios
        self._tls = context.wrap_bio(bios.incoming, bios.outgoing, server_side=True)
        self.finished = False
        """Our close_notify was made; nothing can be encrypted any more."""
        self.peer_finished = False
        """The visitor's close_notify was read; nothing more can be decrypted."""
        self.partial = False
        """A record has begun and not ended: who stops here was cut off. Also True after a message of TLS's own
        (a request for new keys), until the next record; an end there counts as cut off too."""

    @property
    def tls(self) -> ssl.SSLObject:
        """For asking (version, cipher, selected ALPN), not for reading or writing."""
        return self._tls

    def handshake(self, data: bytes | bytearray) -> tuple[bool, bytes, bytes]:
        """Go on with the handshake: whether it is complete, what to send, and what came after its end."""
        bios = self._bios
        bios.incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False, bios.outgoing.read(), b""
        except ssl.SSLError as error:
            raise self._failed(error) from None
        return True, bios.outgoing.read(), bios.incoming.read()

    def decrypt(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """Everything that ``data`` completes, what TLS itself wants sent (nearly always nothing), and whether
        a close_notify followed. What comes after that is ignored, as RFC 8446 section 6.1 wants it."""
        bios = self._bios
        incoming, read = bios.incoming, self._tls.read
        incoming.write(data)
        chunks = []
        self.partial = False
        try:
            # An empty BIO means that no whole record is left, which spares the exception that says so.
            while incoming.pending:
                chunk = read(RECORD)
                if not chunk:
                    self._peer_finished()
                    break
                chunks.append(chunk)
        except ssl.SSLWantReadError:
            self.partial = True  # OpenSSL keeps the part
        except ssl.SSLZeroReturnError:
            self._peer_finished()
        except ssl.SSLError as error:
            raise self._failed(error) from None
        plain = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        return plain, bios.outgoing.read() if bios.outgoing.pending else b"", self.peer_finished

    def encrypt(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """``data`` as records, a batch at a time; take each batch away before asking for the next."""
        write, outgoing = self._tls.write, self._bios.outgoing
        size = len(data)
        if size <= BATCH:
            write(data)
            yield outgoing.read()
            return
        view = memoryview(data)
        for start in range(0, size, BATCH):
            # A memory BIO takes everything, so a write is never partial.
            write(view[start : start + BATCH])
            yield outgoing.read()

    def finish(self) -> bytes:
        """Our close_notify. Reading goes on: TLS 1.3 closes its directions one by one (RFC 8446 section 6.1),
        and OpenSSL lets TLS 1.2 do the same."""
        if self.finished:
            return b""
        self.finished = True
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            pass  # it would wait for the visitor's close_notify; we read that in our own time
        except ssl.SSLError as error:
            return self._failed(error).farewell
        return self._bios.outgoing.read()

    def _peer_finished(self) -> None:
        self.peer_finished = True
        self._bios.incoming.read()

    def _failed(self, error: ssl.SSLError) -> TlsProtocolError:
        self._bios.incoming.read()
        # OpenSSL's own words for the reason: from its table, not from the visitor.
        return TlsProtocolError((error.reason or "TLS failed").lower(), self._bios.outgoing.read())
