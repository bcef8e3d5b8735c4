"""A throttle on a session that loses its link."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from quictunnel.transport.engine import CloseCause, Closed
from quictunnel.transport.link import Link
from quictunnel.transport.session import Session
from quictunnel.transport.splice import TcpSplice
from quictunnel.transport.throttle import Throttle
from quictunnel.wire.control_state import Side

if TYPE_CHECKING:
    from quictunnel.transport.stream import Stream

WAIT = 0.1


class Engine:
    """A connection whose brake is the test's."""

    address = ("127.0.0.1", 1)

    def __init__(self, *, takes: bool) -> None:
        self.takes = takes
        self._next = 0

    def open(self) -> int:
        self._next += 4
        return self._next

    def write(self, _stream: int, data: bytes) -> int:
        return len(data) if self.takes else 1

    def finish(self, _stream: int) -> None: ...
    def reset(self, _stream: int, _code: int) -> None: ...
    def stop(self, _stream: int, _code: int) -> None: ...
    def close(self, _code: int, _reason: str) -> None: ...

    def stats(self) -> Any:
        return SimpleNamespace(rtt=0.01, last_heard=0.0)


class SlowRateLimiter:
    def spend(self, _size: int) -> float:
        return WAIT


async def test_reading_resumes_after_the_throttle_with_a_full_engine():
    """After a lost link everything is sent again, and the engine takes it bit by bit; the throttle's time is over
    meanwhile."""
    events: Any = SimpleNamespace(session_away=lambda _: True, session_streams_available=lambda: None)
    session = Session(Side.EDGE, events, lambda: None)
    session.link.attach(Engine(takes=True))  # type: ignore[arg-type]
    session.peer_window = 65_536
    stream: Stream | None = session.open(lease=1, tls=False, host="127.0.0.1", port=1)
    assert stream is not None
    splice = TcpSplice(lambda splice: splice.join(stream))
    splice.throttle = Throttle(SlowRateLimiter(), SlowRateLimiter())
    visitor, ours = socket.socketpair()
    visitor.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.connect_accepted_socket(lambda: splice, ours)  # type: ignore[arg-type,return-value]
    await loop.sock_sendall(visitor, b"x" * 20_000)
    async with asyncio.timeout(10):
        while stream.bytes_sent < 20_000:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
    assert not splice.transport.is_reading()
    session.link_down(Closed(CloseCause.TIMEOUT, 0, ""))
    link, full = Link(Side.EDGE, session, lambda: None), Engine(takes=False)
    link.attach(full)  # type: ignore[arg-type]
    session.resume(link, events)
    stream.send_all_again()
    stream.attach_quic_stream(4)
    await asyncio.sleep(2 * WAIT)
    assert not splice.transport.is_reading()
    full.takes = True
    stream.writable()
    await loop.sock_sendall(visitor, b"y" * 1000)
    async with asyncio.timeout(10):
        while stream.bytes_sent < 21_000:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.001)
    splice.transport.abort()
    await asyncio.sleep(0)
    visitor.close()
