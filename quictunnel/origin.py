"""The origin: the local service behind a tunnel, dialled for each visitor on 127.0.0.1 and ::1.

The edge names a lease, never an address: what is dialled is decided here alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from quictunnel.transport.splice import TcpSplice
from quictunnel.wire.codes import StreamCode

if TYPE_CHECKING:
    from quictunnel.transport.stream import Stream

LOOPBACKS: Final = ("127.0.0.1", "::1")
"""Both, because servers that say ``localhost`` may listen on either alone."""
DIAL_TIMEOUT: Final = 5.0
"""Seconds for one connection on this machine; a listener whose queue is full for longer is not answering."""


class OriginRefusedError(Exception):
    """Nobody took the connection; ``code`` says how."""

    def __init__(self, code: StreamCode) -> None:
        super().__init__(code.name)
        self.code = code


async def is_listening(port: int) -> bool:
    """Whether somebody takes connections there, found out by one. When cancelled, nothing stays open."""
    for host in LOOPBACKS:
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                _, writer = await asyncio.open_connection(host, port)
        except OSError:  # a time-out is one, too
            continue
        writer.close()
        return True
    return False


class Origin:
    """One local port. Remembers which of the loopback addresses answered last and asks it first."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._hosts = list(LOOPBACKS)

    async def join(self, stream: Stream) -> None:
        """Dial and splice with ``stream``. Raises OriginRefusedError. When cancelled, nothing stays open."""
        code = StreamCode.REFUSED
        for host in tuple(self._hosts):
            try:
                await self._dial(host, stream)
            except TimeoutError:
                code = StreamCode.UNREACHABLE
            except OSError:
                # Refused, or this machine has no such address family: the next one may answer.
                continue
            else:
                if self._hosts[0] != host:
                    self._hosts.sort(key=host.__ne__)
                return
        raise OriginRefusedError(code)

    def splice(self, stream: Stream) -> TcpSplice:
        """What the connection for ``stream`` is to be joined by."""
        return TcpSplice(lambda splice: splice.join(stream))

    async def _dial(self, host: str, stream: Stream) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DIAL_TIMEOUT):
            await loop.create_connection(lambda: self.splice(stream), host, self.port)
