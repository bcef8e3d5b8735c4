"""A visitor's connection over TCP or TLS, byte by byte and direction by direction, on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.load.plan import Plan

READ = 64 * 1024


class WrongBytesError(Exception):
    """The other end said something else than it should."""


class Connection:
    """Plain TCP."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Self:
        reader, writer = await asyncio.open_connection(host, port)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(reader, writer)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def finish(self) -> None:
        """End this direction alone."""
        self._writer.write_eof()

    async def receive(self) -> bytes:
        """Return some bytes; none at the end."""
        return await self._reader.read(READ)

    async def receive_exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = await self.receive()
            if not part:
                raise EOFError(f"ended after {len(data)} of {size} bytes")
            data += part
        return data

    async def receive_all(self) -> bytes:
        data = b""
        while part := await self.receive():
            data += part
        return data

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Leave with a RST (socket(7), SO_LINGER)."""
        sock = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # closed by the other end already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


class TlsConnection(Connection):
    """TLS over memory buffers, since asyncio's cannot end one direction, nor leave within its handshake."""

    def secure(self, context: ssl.SSLContext, host: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._has_ended = False

    async def say_hello(self) -> None:
        """Send the ClientHello alone."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        await self._flush()

    async def shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            else:
                break
        await self._flush()

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), READ):
            self._tls.write(data[start : start + READ])
            await self._flush()

    def finish(self) -> None:
        self._has_ended = True
        with contextlib.suppress(ssl.SSLWantReadError):  # it would wait for the other side's close_notify
            self._tls.unwrap()
        self._writer.write(self._outgoing.read())
        self._writer.write_eof()

    async def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(READ)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                await self._feed()

    def close(self) -> None:
        if not self._has_ended:
            with contextlib.suppress(ssl.SSLError):  # as browsers do; the other side's end is not waited for
                self._tls.unwrap()
            self._writer.write(self._outgoing.read())
        super().close()

    async def _feed(self) -> None:
        data = await self._reader.read(READ)
        if not data:
            raise EOFError("TCP ended without TLS")
        self._incoming.write(data)

    async def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._writer.write(data)
            await self._writer.drain()


async def connect(plan: Plan, number: int, context: ssl.SSLContext, *, tls: bool) -> Connection:
    """Return a connection to one of the plan's targets; the TLS handshake is still to come."""
    host, tls_port, tcp_host, tcp_port = plan.targets[number % len(plan.targets)]
    if not tls:
        return await Connection.open(tcp_host, tcp_port)
    connection = await TlsConnection.open("127.0.0.1", tls_port)
    connection.secure(context, host)
    return connection
