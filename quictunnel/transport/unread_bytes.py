"""Transport that reads the bytes which the kernel still holds after a write to a TCP connection has failed.

When a write fails, an event loop closes its transport at once. The bytes that the kernel has received by then are
lost, for instance the answer of a server that closed the connection during an upload. The kernel keeps them as
long as the socket is open (tcp_recvmsg serves its queue before it reports the error).
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, Final, Self, cast

from quictunnel.transport import descriptors

if TYPE_CHECKING:
    from collections.abc import Iterable

READ_SIZE: Final = 64 * 1024
"""Bytes of one read; other callbacks run between two reads."""


class UnreadBytesTransport(asyncio.Transport):
    """Read-only transport of a socket whose connection is closed for the kernel.

    Created within ``connection_lost`` of the transport that broke. The protocol then gets the unread bytes as
    usual, ``eof_received`` if the peer had sent a FIN before the connection broke, and ``connection_lost`` with
    the same error once more.

    Its reads never wait, because no further bytes can arrive.
    """

    def __init__(self, sock: socket.socket, protocol: asyncio.BaseProtocol, error: Exception) -> None:
        super().__init__()
        self._sock = sock
        self._protocol = protocol
        self._error = error
        self._is_reading = False
        self._is_scheduled = False
        self._is_closing = False
        self._loop = asyncio.get_running_loop()

    @classmethod
    def take(
        cls, transport: asyncio.BaseTransport, protocol: asyncio.BaseProtocol, error: Exception | None
    ) -> Self | None:
        """Return a transport for the socket of one that broke with ``error``; there may be no unread bytes.

        Return None if there can be none (``error`` is no OSError, or ``transport`` is an UnreadBytesTransport
        already), or they cannot be read (the socket is closed, or no descriptor for a duplicate is left). Reading
        starts with :meth:`resume_reading`."""
        sock: socket.socket | None = transport.get_extra_info("socket")
        if not isinstance(error, OSError) or isinstance(transport, cls) or sock is None or sock.fileno() < 0:
            return None
        try:
            duplicate = socket.socket(fileno=os.dup(sock.fileno()))
        except OSError:
            return None  # out of descriptors: what was not read is lost with the connection
        duplicate.setblocking(False)
        descriptors.set_close_on_fork(duplicate)
        return cls(duplicate, protocol, error)

    def resume_reading(self) -> None:
        self._is_reading = True
        if not self._is_scheduled and not self._is_closing:
            self._is_scheduled = True
            self._loop.call_soon(self._read)

    def pause_reading(self) -> None:
        self._is_reading = False

    def is_reading(self) -> bool:
        return self._is_reading

    def _read(self) -> None:
        self._is_scheduled = False
        if not self._is_reading or self._is_closing:
            return
        protocol = self._protocol
        try:
            if isinstance(protocol, asyncio.BufferedProtocol):
                size = self._sock.recv_into(cast("memoryview", protocol.get_buffer(READ_SIZE)))
                if size:
                    protocol.buffer_updated(size)
            else:
                data = self._sock.recv(READ_SIZE)
                size = len(data)
                if data:
                    cast("asyncio.Protocol", protocol).data_received(data)
        except OSError:
            self._close(self._error)  # the reset, behind the last byte
            return
        if size:
            if self._is_reading:
                self.resume_reading()
            return
        # The error was reported to a write, and is reported once. After a reset it is ECONNRESET, but EPIPE if
        # the peer had sent a FIN before (tcp_reset): only then is this a clean end.
        if isinstance(self._error, BrokenPipeError):
            cast("asyncio.Protocol | asyncio.BufferedProtocol", protocol).eof_received()
        self._close(self._error)

    def _close(self, error: Exception | None) -> None:
        if not self._is_closing:
            self._is_closing = True
            descriptors.clear_close_on_fork(self._sock)
            self._sock.close()
            self._loop.call_soon(self._protocol.connection_lost, error)

    def abort(self) -> None:
        self._close(None)

    def close(self) -> None:
        self._close(None)

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Drop the bytes."""

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """Drop the bytes."""

    def write_eof(self) -> None:
        """Drop the bytes."""

    def can_write_eof(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: there is no write buffer."""

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._sock if name == "socket" and not self._is_closing else default
