"""Many visitors of one tunnel at once, each sending and receiving, every byte checked."""

from __future__ import annotations

import hashlib
import random
import selectors
import socket
import threading
import time
from typing import TYPE_CHECKING, Self

from tests.netlab.rig import ECHO

if TYPE_CHECKING:
    from types import TracebackType

    from tests.netlab.rig import Tunnelled

PIECE = 32 * 1024
_BLOCK = memoryview(random.Random(2).randbytes(2 * PIECE))


class Visitor:
    """Sends ``size`` bytes, which are its own, and takes what comes back."""

    def __init__(self, sock: socket.socket, number: int, size: int) -> None:
        self.sock = sock
        self.sent = self.received = 0
        self.size = size
        self.failure = ""
        self.heard = time.monotonic()
        self.stall = 0.0
        """The longest time without a byte."""
        self._number = number
        self._went, self._came = hashlib.sha256(), hashlib.sha256()
        sock.sendall(ECHO)
        sock.setblocking(False)

    @property
    def wanted(self) -> int:
        """Return the events that a selector should look for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self.sent < self.size else 0)

    def send(self) -> None:
        index, offset = divmod(self.sent, PIECE)
        start = (self._number * 61 + index * 8191) % PIECE
        piece = _BLOCK[start + offset : start + PIECE]
        count = self.sock.send(piece[: self.size - self.sent])
        self._went.update(piece[:count])
        self.sent += count
        if self.sent == self.size:
            self.sock.shutdown(socket.SHUT_WR)

    def receive(self) -> bool:
        """Receive some bytes; return True if more are expected."""
        data = self.sock.recv(256 * 1024)
        now = time.monotonic()
        self.stall, self.heard = max(self.stall, now - self.heard), now
        self._came.update(data)
        self.received += len(data)
        if not data and (self.received != self.size or self._came.digest() != self._went.digest()):
            self.failure = f"other bytes: {self.received} of {self.sent}"
        return bool(data)


class ParallelTransfers:
    """Visitors that run during a ``with`` block, which ends when all of them have finished."""

    def __init__(self, tunnel: Tunnelled, count: int, size: int, *, patience: float = 200.0) -> None:
        """``patience``: seconds without a byte for anybody, after which the rest have failed."""
        self.visitors = [Visitor(tunnel.visit(), number, size) for number in range(count)]
        self._patience = patience
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.join()
        for visitor in self.visitors:
            visitor.sock.close()

    def finish(self) -> None:
        """Wait for the last of them. Fails when any of them did."""
        self._thread.join()
        broken = [visitor.failure for visitor in self.visitors if visitor.failure]
        assert not broken, f"{len(broken)} of {len(self.visitors)} broken: {broken[:5]}"

    @property
    def is_busy(self) -> bool:
        """Return True while a visitor is still on its way."""
        return self._thread.is_alive()

    @property
    def received(self) -> int:
        return sum(visitor.received for visitor in self.visitors)

    @property
    def stall(self) -> float:
        """The longest time that any of them waited for a byte, in seconds."""
        return max(visitor.stall for visitor in self.visitors)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for visitor in self.visitors:
                selector.register(visitor.sock, visitor.wanted, visitor)
            while selector.get_map():
                ready = selector.select(self._patience)
                if not ready:
                    for key in selector.get_map().values():
                        key.data.failure = f"nothing for {self._patience:.0f} s"
                    return
                for key, events in ready:
                    self._serve(selector, key.data, events)

    @staticmethod
    def _serve(selector: selectors.BaseSelector, visitor: Visitor, events: int) -> None:
        try:
            wanted = visitor.wanted
            if events & selectors.EVENT_WRITE and visitor.sent < visitor.size:
                visitor.send()
            is_open = not events & selectors.EVENT_READ or visitor.receive()
        except OSError as error:
            visitor.failure = repr(error)
            is_open = False
        if not is_open:
            selector.unregister(visitor.sock)
        elif visitor.wanted != wanted:
            selector.modify(visitor.sock, visitor.wanted, visitor)
