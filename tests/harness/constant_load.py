"""HTTPS requests at a constant rate, which show every refused visitor."""

import contextlib
import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple

import quictunnel
from tests.harness.edge_process import EdgeProcess
from tests.harness.visitors import tls_connect

RATE = 100
"""Requests a second, each with a connection of its own."""
WORKERS = 20


class FailedRequest(NamedTuple):
    """A request that failed: begin, end (time.monotonic) and error."""

    begun: float
    ended: float
    error: str


class ConstantLoad:
    """HTTPS requests at a constant rate during a ``with`` block. Records every failure."""

    def __init__(self, edge: EdgeProcess, tunnel: quictunnel.Tunnel) -> None:
        self.failures: list[FailedRequest] = []
        self.count = 0
        self.ended = 0
        """Requests that have ended, failed or not."""
        self.longest = 0.0
        """Longest time until a response, in seconds."""
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
                self.failures.append(FailedRequest(begun, time.monotonic(), repr(error)))
            else:
                self.longest = max(self.longest, time.monotonic() - begun)
            self.ended += 1

    def _ask(self):
        # Always closed: many requests fail in the middle when an edge is killed.
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
        """Seconds since the start."""
        return time.monotonic() - self._begun
