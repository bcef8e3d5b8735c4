"""A UDP relay between clients and an edge that can drop or hold back the edge's datagrams to one client."""

from __future__ import annotations

import selectors
import socket
import threading
from typing import TYPE_CHECKING, Final, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST: Final = 1 << 16


class Flow:
    """The datagrams of one client socket."""

    def __init__(self, edge: tuple[str, int], say: Callable[[bytes], object]) -> None:
        self.upstream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.upstream.connect(edge)
        self._say = say
        self._lock = threading.Lock()
        self._answers: Literal["pass", "held", "lost"] = "pass"
        self._held: list[bytes] = []

    def hold(self) -> None:
        """Keep the edge's datagrams from now on."""
        with self._lock:
            self._answers = "held"

    def lose(self) -> None:
        """Drop the edge's datagrams from now on."""
        with self._lock:
            self._answers = "lost"

    def release(self) -> None:
        """Deliver the kept datagrams, and all later ones."""
        with self._lock:
            self._answers = "pass"
            for datagram in self._held:
                self._say(datagram)
            self._held.clear()

    def answered(self, datagram: bytes) -> None:
        """Handle a datagram of the edge."""
        with self._lock:
            if self._answers == "pass":
                self._say(datagram)
            elif self._answers == "held":
                self._held.append(datagram)


class Relay:
    """Relays datagrams during a ``with`` block."""

    def __init__(self, edge: str) -> None:
        """``edge``: ``host:port``, as clients are told."""
        host, _, port = edge.rpartition(":")
        self.flows: list[Flow] = []
        """In the order of their first datagrams."""
        self._edge = host, int(port)
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run)

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return "{}:{}".format(*self._front.getsockname())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join()
        for sock in (self._front, self._woken, *(flow.upstream for flow in self.flows)):
            sock.close()

    def _run(self) -> None:
        flows: dict[tuple[str, int], Flow] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(self._front, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    if key.data is not None:
                        self._answer(key.data)
                        continue
                    datagram, client = self._front.recvfrom(LARGEST)
                    if client not in flows:
                        flow = flows[client] = self._new_flow(client)
                        selector.register(flow.upstream, selectors.EVENT_READ, flow)
                    flows[client].upstream.send(datagram)

    def _new_flow(self, client: tuple[str, int]) -> Flow:
        flow = Flow(self._edge, lambda datagram: self._front.sendto(datagram, client))
        self.flows.append(flow)
        return flow

    @staticmethod
    def _answer(flow: Flow) -> None:
        try:
            flow.answered(flow.upstream.recv(LARGEST))
        except ConnectionRefusedError:
            return  # ICMP: the edge has closed its socket
