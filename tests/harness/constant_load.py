"""Visitors who come all the time, so that none can be refused without being noticed."""

import contextlib
import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple

import quictunnel
from tests.harness.edge_process import EdgeProcess
from tests.harness.visits import tls_connect

RATE = 100
"""Requests a second, each with a connection of its own."""
WORKERS = 20


class Failure(NamedTuple):
    """Of one request: when it was begun and when it failed (time.monotonic), and why."""

    begun: float
    ended: float
    error: str


class Requests:
    """A steady stream of HTTPS requests until its ``with`` block ends; every failure is noted."""

    def __init__(self, edge: EdgeProcess, tunnel: quictunnel.Tunnel) -> None:
        self.failures: list[Failure] = []
        self.count = 0
        self.ended = 0
        """Requests that are over, whatever came of them."""
        self.longest = 0.0
        """Seconds that an answer took."""
        self._edge = edge
        self._tunnel = tunnel
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(WORKERS)]

    def __enter__(self):
        self._begun = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number):
        due = self._begun + number / RATE
        while not self._over.wait(max(0, due - time.monotonic())):
            due += WORKERS / RATE
            self.count += 1
            begun = time.monotonic()
            try:
                self._ask()
            except (OSError, HTTPException, AssertionError) as error:
                self.failures.append(Failure(begun, time.monotonic(), repr(error)))
            else:
                self.longest = max(self.longest, time.monotonic() - begun)
            self.ended += 1

    def _ask(self):
        # Closed whatever happens: many end in the middle, where an edge is killed.
        with (
            tls_connect(self._edge, self._tunnel) as visitor,
            contextlib.closing(HTTPConnection(self._tunnel.host)) as connection,
        ):
            connection.sock = visitor
            connection.request("GET", "/word", headers={"Connection": "close"})
            with connection.getresponse() as answer:
                assert (answer.status, answer.read()) == (200, b"hello")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun
