"""TCP connections without sockets: a transport for a splice, and the peer at its far end."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.splice import TcpSplice
    from tests.model.stepped_loop import SteppedLoop

KERNEL = 48 * 1024
"""Bytes that the kernels of both ends hold for a peer that does not read."""
_BLOCK = random.Random(1).randbytes(1 << 20)


def pattern(key: int, start: int, size: int) -> bytes:
    """Return the bytes that peer ``key`` sends at an offset; no two peers send the same."""
    offset = (start + key * 7919) % len(_BLOCK)
    data = _BLOCK[offset : offset + size]
    while len(data) < size:
        data += _BLOCK[: size - len(data)]
    return data


class BrokenError(Exception):
    """A promise of the model was broken; ``kind`` names it."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Peer:
    """The far end of one TCP connection: a visitor, or the local service that serves it."""

    def __init__(self, key: int, name: str) -> None:
        self.key = key
        self.name = name
        self.partner: Peer | None = None
        """The peer at the other end of the tunnel."""
        self.sent = 0
        self.received = 0
        self.has_ended = False
        """True after this peer has sent its FIN."""
        self.was_ended = False
        """The tunnel has sent a FIN."""
        self.has_reset = False
        self.was_reset = False
        self.reads = True
        self.transport: TcpPipe | None = None
        self.note: Callable[[str], None] = lambda _: None

    def __repr__(self) -> str:
        flags = "".join(
            letter
            for letter, is_set in zip(
                "ewRr", (self.has_ended, self.was_ended, self.has_reset, self.was_reset), strict=True
            )
            if is_set
        )
        return f"{self.name}(sent={self.sent} received={self.received} {flags})"

    @property
    def is_done(self) -> bool:
        """Return True if the connection is over at this end, in good order or not."""
        return self.has_reset or self.was_reset or (self.has_ended and self.was_ended)

    @property
    def is_complete(self) -> bool:
        """Return True if both directions ended in good order at this end."""
        return self.has_ended and self.was_ended and not self.has_reset and not self.was_reset

    # What a driver has it do.

    def send(self, size: int) -> None:
        """Send so many bytes."""
        assert self.transport is not None
        self.note(f"{self} sends {size}")
        self.sent += size
        self.transport.arrived(size)

    def end(self) -> None:
        """Send a FIN."""
        assert self.transport is not None
        self.has_ended = True
        self.note(f"{self} ends")
        self.transport.ended()

    def reset(self) -> None:
        """Reset the connection."""
        assert self.transport is not None
        self.has_reset = True
        self.note(f"{self} resets")
        self.transport.was_reset()

    def read_on(self) -> None:
        """Read again after not reading."""
        self.reads = True
        if self.transport is not None:
            self.transport.drain()

    # What the tunnel does to it.

    def take(self, data: bytes) -> None:
        """Check bytes against what the partner has sent."""
        if self.has_reset or self.was_reset:
            return
        partner = self.partner
        if self.was_ended:
            raise BrokenError("bytes behind the end", f"{self} got {len(data)} more")
        if partner is None or self.received + len(data) > partner.sent:
            raise BrokenError("bytes from nowhere", f"{self} got {len(data)} more than {partner} sent")
        if data != pattern(partner.key, self.received, len(data)):
            raise BrokenError("wrong bytes", f"{self} got others than {partner} sent")
        self.received += len(data)

    def take_end(self) -> None:
        """Check an end against what the partner has sent."""
        if self.has_reset or self.was_reset or self.was_ended:
            return
        partner = self.partner
        if partner is None or not partner.has_ended or partner.sent != self.received:
            raise BrokenError("a clean end short of bytes", f"{self} was ended, {partner}")
        self.was_ended = True
        self.note(f"{self} is ended")

    def take_reset(self) -> None:
        """Note a reset by the tunnel."""
        if not self.has_reset and not self.is_complete:
            self.was_reset = True
            self.note(f"{self} is reset")


class TcpPipe(asyncio.Transport):
    """The tunnel's end of the connection with a peer, as asyncio's socket transports behave."""

    def __init__(self, loop: SteppedLoop, peer: Peer, protocol: TcpSplice, peername: tuple[str, int]) -> None:
        super().__init__({"peername": peername, "sockname": ("192.0.2.1", 443)})
        self._loop = loop
        self._peer = peer
        self._protocol = protocol
        self._unread = 0
        """Bytes of the peer that were not read yet."""
        self._taken = 0
        self._has_end = False
        self._end_told = False
        self._is_reading = True
        self._is_reset = False
        self._out: list[bytes] = []
        self._out_size = 0
        self._eof = False
        self._high, self._low = 64 * 1024, 16 * 1024
        self._is_full = False
        self._is_closing = False
        self._is_lost = False
        self._is_closed = False
        """The socket is: the kernel alone has what was written, and no reset of ours reaches it."""
        peer.transport = self
        protocol.connection_made(self)
        self._look()

    @property
    def is_gone(self) -> bool:
        """Return True if the kernel knows of a reset."""
        return self._is_reset

    # From the peer.

    def arrived(self, size: int) -> None:
        if self._is_lost:
            self._peer.take_reset()
            return
        self._unread += size
        self._look()

    def ended(self) -> None:
        self._has_end = True
        self._look()

    def was_reset(self) -> None:
        self._is_reset = True
        if self._is_reading:
            self._lose(ConnectionResetError())

    def drain(self) -> None:
        """Hand what was written to a peer that reads, and as much as the kernels hold to one that does not."""
        peer = self._peer
        if peer.reads or self._is_reset:
            out, self._out = self._out, []
            self._out_size = 0
            for data in out:
                peer.take(data)
            if self._eof:
                peer.take_end()
        if self._is_full and not self._is_lost and self._buffered <= self._low:
            self._is_full = False
            self._protocol.resume_writing()
        if self._is_closing and not self._buffered:
            self._finish(None)

    @property
    def _buffered(self) -> int:
        return max(0, self._out_size - KERNEL)

    # From the splice (asyncio.Transport).

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_reset:
            self._lose(ConnectionResetError())
        if self._is_lost or self._is_closing:
            return
        if self._peer.reads and not self._out:
            self._peer.take(bytes(data))
            return
        self._out.append(bytes(data))
        self._out_size += len(data)
        if self._buffered > self._high and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._is_lost and not self._is_closing:
            self._eof = True
            self.drain()

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low
        if self._buffered > self._high and not self._is_full:
            self._is_full = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def pause_reading(self) -> None:
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True
        if self._is_reset:
            self._lose(ConnectionResetError())
        self._look()

    def is_reading(self) -> bool:
        return self._is_reading and not self._is_closing

    def is_closing(self) -> bool:
        return self._is_closing or self._is_lost

    def close(self) -> None:
        if not self._is_closing and not self._is_lost:
            self._is_closing = True
            self._eof = True
            if self._peer.reads:
                self.drain()
            elif not self._buffered:
                self._finish(None)

    def abort(self) -> None:
        if self._is_closed:
            return
        # Also in the moment between close() and the end: the socket is open, and lingers for zero seconds.
        self._out.clear()
        self._out_size = 0
        self._eof = False
        self._peer.take_reset()
        self._lose(None)

    # Inside.

    def _look(self) -> None:
        if self._is_reading and not self._is_lost and (self._unread or self._has_end):
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        if not self._is_reading or self._is_closing or self._is_lost:
            return
        if self._unread:
            buffer = self._protocol.get_buffer(-1)
            size = min(len(buffer), self._unread)
            buffer[:size] = pattern(self._peer.key, self._taken, size)
            self._taken += size
            self._unread -= size
            self._protocol.buffer_updated(size)
            self._look()
        elif self._has_end and not self._end_told:
            self._end_told = True
            self._protocol.eof_received()

    def _lose(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_closing = True
            self._finish(error)

    def _finish(self, error: Exception | None) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._loop.call_soon(self._close_socket, error)

    def _close_socket(self, error: Exception | None) -> None:
        self._is_closed = True
        self._protocol.connection_lost(error)
