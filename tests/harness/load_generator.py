"""A load of visitors: an origin and a generator of connections, each a program that takes commands as JSON lines.

``python -m tests.harness.load_generator origin`` answers HTTP/1.1: ``GET /SIZE`` with that many bytes,
``GET /for-ever`` with endless bytes, and after ``POST /deaf`` it stops reading.
``python -m tests.harness.load_generator visitors`` takes one command a line, ``{"do": NAME, ...}``, and answers
each with one line. The commands are the methods of :class:`LoadGenerator`. Both programs end with their standard
input.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import random
import resource
import ssl
import sys
import time
from collections import Counter
from typing import Any

import uvloop

BLOCK = random.Random(7).randbytes(1_048_573)  # not a power of two, so that misplaced bytes are detected
CHUNK = 64 * 1024
MAX_CONCURRENT = 100
"""Connections opened at the same time; more would overflow the backlogs of listeners."""
TIMEOUT = 100.0


@functools.cache
def digest(size: int) -> bytes:
    """Return the SHA-256 of a response body of that size."""
    whole, rest = divmod(size, len(BLOCK))
    made = hashlib.sha256()
    for _ in range(whole):
        made.update(BLOCK)
    made.update(BLOCK[:rest])
    return made.digest()


# The origin.


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            if path == "/deaf":
                writer.transport.pause_reading()  # type: ignore[attr-defined]
                return
            if path == "/for-ever":
                while True:
                    await send(writer, BLOCK)
            size = int(path[1:])
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            whole, rest = divmod(size, len(BLOCK))
            for _ in range(whole):
                await send(writer, BLOCK)
            await send(writer, BLOCK[:rest])
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()  # the visitor left


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write bytes in chunks, with backpressure."""
    for start in range(0, len(data), CHUNK):
        writer.write(data[start : start + CHUNK])
        await writer.drain()


async def origin() -> None:
    """Run the origin until standard input ends."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# The visitors.


class Visitor(asyncio.Protocol):
    """A connection that requests responses and checks them."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._head = b""
        self._left = -1
        self._size = 0
        self._hash = hashlib.sha256()
        self._answered: asyncio.Future[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    async def get(self, size: int) -> None:
        """Request a response of that size. Raises if it is wrong."""
        self._answered = asyncio.get_running_loop().create_future()
        self._head, self._left, self._size, self._hash = b"", -1, size, hashlib.sha256()
        self.transport.write(f"GET /{size} HTTP/1.1\r\nHost: load\r\n\r\n".encode())
        async with asyncio.timeout(TIMEOUT):
            await self._answered

    def stall(self) -> None:
        """Request endless data and read nothing."""
        self.transport.pause_reading()
        self.transport.write(b"GET /for-ever HTTP/1.1\r\nHost: load\r\n\r\n")

    async def upload(self, quiet: float) -> int:
        """Send to an origin that never reads, until no progress was possible for ``quiet`` seconds. Return the
        bytes sent."""
        self.transport.write(b"POST /deaf HTTP/1.1\r\nHost: load\r\n\r\n")
        sent = 0
        while True:
            try:
                async with asyncio.timeout(quiet):
                    await self._may_write.wait()
            except TimeoutError:
                return sent
            self.transport.write(BLOCK[:CHUNK])
            sent += CHUNK

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._head += data
            head, separator, data = self._head.partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self._end(ValueError(f"answered with {head[:40]!r}"))
                return
            self._left = self._size
        self._hash.update(data)
        self._left -= len(data)
        if self._left <= 0:
            good = self._left == 0 and self._hash.digest() == digest(self._size)
            self._end(None if good else ValueError("not the bytes that were sent"))

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def eof_received(self) -> None:
        self._end(EOFError("ended too early"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or EOFError("ended too early"))

    def _end(self, error: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            if error is None:
                self._answered.set_result(None)
            else:
                self._answered.set_exception(error)


class LoadGenerator:
    """The commands of the generator."""

    def __init__(self, host: str, tls_port: int, tcp_host: str, tcp_port: int, ca: str) -> None:
        self._host, self._tls_port, self._tcp_host, self._tcp_port = host, tls_port, tcp_host, tcp_port
        self._context = ssl.create_default_context(cafile=ca)
        self._here: list[Visitor] = []
        self._gate = asyncio.Semaphore(MAX_CONCURRENT)

    async def enter(self, *, tls: bool) -> Visitor:
        """Open a connection."""
        async with self._gate, asyncio.timeout(TIMEOUT):
            loop = asyncio.get_running_loop()
            if tls:
                _, visitor = await loop.create_connection(
                    Visitor, "127.0.0.1", self._tls_port, ssl=self._context, server_hostname=self._host
                )
            else:
                _, visitor = await loop.create_connection(Visitor, self._tcp_host, self._tcp_port)
        return visitor

    async def burst(self, count: int, size: int) -> dict[str, Any]:
        """Open connections, every other one over TLS; then send a request on all of them at once."""
        entered = await self._all(self.enter(tls=bool(n % 2)) for n in range(count))
        visitors = [one for one in entered if isinstance(one, Visitor)]
        began = time.monotonic()
        answers = await self._all(visitor.get(size) for visitor in visitors)
        seconds = time.monotonic() - began
        for visitor in visitors:
            visitor.transport.abort()
        return {"seconds": seconds, "errors": self._errors(entered + answers)}

    async def idle(self, count: int, tls: bool) -> dict[str, Any]:
        """Open connections that request one byte and then stay idle."""

        async def come() -> Visitor:
            visitor = await self.enter(tls=tls)
            await visitor.get(1)
            return visitor

        entered = await self._all(come() for _ in range(count))
        self._here += [one for one in entered if isinstance(one, Visitor)]
        return {"errors": self._errors(entered)}

    async def busy(self, size: int, tls: bool = False) -> dict[str, Any]:
        """Return the seconds for one response beside the other visitors."""
        visitor = await self.enter(tls=tls)
        await visitor.get(1)
        began = time.monotonic()
        await visitor.get(size)
        seconds = time.monotonic() - began
        visitor.transport.abort()
        return {"seconds": seconds}

    async def stall(self, count: int, tls: bool = False, apart: float = 0.0) -> dict[str, Any]:
        """Open connections that request endless data and never read."""
        entered = await self._all(self.enter(tls=tls) for _ in range(count))
        for visitor in entered:
            if isinstance(visitor, Visitor):
                visitor.stall()
                self._here.append(visitor)
                await asyncio.sleep(apart)
        return {"errors": self._errors(entered)}

    async def upload(self, quiet: float, tls: bool = False) -> dict[str, Any]:
        """Upload to an origin that never reads."""
        visitor = await self.enter(tls=tls)
        self._here.append(visitor)
        return {"sent": await visitor.upload(quiet)}

    async def ask_again(self) -> dict[str, Any]:
        """Request one more byte on all idle connections."""
        return {"errors": self._errors(await self._all(visitor.get(1) for visitor in self._here))}

    async def leave(self) -> dict[str, Any]:
        """Abort all connections."""
        for visitor in self._here:
            visitor.transport.abort()
        self._here.clear()
        return {}

    @staticmethod
    async def _all(work: Any) -> list[Any]:
        return await asyncio.gather(*work, return_exceptions=True)

    @staticmethod
    def _errors(outcomes: list[Any]) -> dict[str, int]:
        return Counter(f"{type(one).__name__}: {one}"[:80] for one in outcomes if isinstance(one, BaseException))


async def visitors() -> None:
    """Run the generator until standard input ends."""
    loop = asyncio.get_running_loop()
    generator = LoadGenerator(*json.loads(sys.argv[2]))
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        answer = await getattr(generator, command.pop("do"))(**command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run({"origin": origin, "visitors": visitors}[sys.argv[1]]())
