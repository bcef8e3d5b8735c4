"""Fake of the public API with tunnels that lead nowhere, to test every ending of a command without a network.

Also a program, for tests that send real signals: ``fake_client.py BEHAVIOUR ARGUMENT...``. Events come from
another thread, as those of the real client do.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest.mock import patch

import quictunnel
from quictunnel import errors
from quictunnel.cli.main import main
from quictunnel.events import ClientEvent, Snapshot
from quictunnel.inspect.request_queue import RequestSummary
from quictunnel.tunnel import Tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from quictunnel.config.client_config import ClientConfig

HOST = "x7k2.tunnel.localhost"


class FakeClient:
    def __init__(self, edge: str, token: str, ca: Path | None) -> None:
        self.config = (edge, token, ca)
        self.closed = 0
        self.error: errors.Error | None = None
        self.subscribers: list[Callable[[ClientEvent], None]] = []
        self.subscribed = threading.Event()

    @property
    def failure(self) -> errors.Error | None:
        return self.error

    def snapshot(self) -> Snapshot:
        return Snapshot("connected", 1, 2, 3000, 4_500_000, 0.012, "stand-in")

    def subscribe(self, callback: Callable[[ClientEvent], None]) -> Callable[[], None]:
        self.subscribers.append(callback)
        self.subscribed.set()
        return lambda: self.subscribers.remove(callback)

    def close(self) -> None:
        self.closed += 1

    def tell(self, kind: str, message: str) -> None:
        """Tell all subscribers, from a thread of its own."""
        event = ClientEvent(kind, message, 1_700_000_000.0)

        def call() -> None:
            self.subscribed.wait(10)
            for subscriber in list(self.subscribers):
                subscriber(event)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()


class FakeApi:
    """Client and ``forward()`` in place of those of the package.

    Behaviours: serve · hang (never opens) · stuck (opens, never drains) · the name of an error class.
    """

    def __init__(
        self,
        behaviour: str = "serve",
        events: tuple[tuple[str, str], ...] = (),
        failure: errors.Error | None = None,
        requests: Sequence[RequestSummary] = (),
    ) -> None:
        """Create a fake.

        Args:
            behaviour: what it does.
            events: events of each client.
            failure: failure of each client, once it is open.
            requests: requests of each tunnel.
        """
        self.requests = requests
        self.behaviour = behaviour
        self.failure = failure
        self.events = events
        self.clients: list[FakeClient] = []
        self.forwarded: list[dict[str, object]] = []
        self.on_request: Callable[[RequestSummary], object] | None = None

    def new_client(self, config: ClientConfig) -> FakeClient:
        self.clients.append(FakeClient(config.edge, config.token.reveal(), config.ca))
        return self.clients[-1]

    @contextmanager
    def forward(
        self,
        port: int,
        *,
        unencrypted: bool = False,
        h2_enabled: bool = False,
        client: FakeClient,
        on_request: Callable[[RequestSummary], object] | None = None,
        **others: object,
    ) -> Iterator[Tunnel]:
        self.on_request = on_request
        self.forwarded.append({"port": port, "unencrypted": unencrypted, "h2_enabled": h2_enabled} | others)
        if self.behaviour == "hang":
            say("opening")
            threading.Event().wait()
        if self.behaviour.endswith("Error"):
            raise getattr(errors, self.behaviour)(f"A {self.behaviour}.\nOn two lines.")
        client.error = self.failure
        threads = [threading.Thread(target=self._tell_all, args=(client,))] if self.events else []
        if line := os.environ.get("FAKE_LOG"):
            threads.append(threading.Timer(0.5, logging.getLogger(__name__).error, args=(line,)))
        for thread in threads:
            thread.start()
        if on_request is not None:
            for request in self.requests:
                on_request(request)
        tcp = ("edge.example.com", 20001) if unencrypted else ("", 0)
        try:
            yield Tunnel(HOST, 8443, *tcp)
        finally:
            for thread in threads:
                thread.join()
            client.tell("draining", "one visitor under way")
            if self.behaviour == "stuck":
                say("draining")
                threading.Event().wait()
            say("drained")

    def _tell_all(self, client: FakeClient) -> None:
        for kind, message in self.events:
            client.tell(kind, message)


def run_with(api: FakeApi, *words: str) -> int:
    """Run a command on a fake of the API. Return its exit status."""
    with patch.multiple(quictunnel, Client=SimpleNamespace(from_config=api.new_client), forward=api.forward):
        return main(words)


def say(word: str) -> None:
    print(f"[{word} {time.monotonic()}]", file=sys.stderr, flush=True)


def requests_of_environment() -> list[RequestSummary]:
    """Return the requests in FAKE_REQUESTS: method, path, status, seconds of each."""
    told = json.loads(os.environ.get("FAKE_REQUESTS", "[]"))
    return [
        RequestSummary("http", "203.0.113.9", method, path, status, seconds)
        for method, path, status, seconds in told
    ]


if __name__ == "__main__":
    sys.exit(run_with(FakeApi(sys.argv[1], requests=requests_of_environment()), *sys.argv[2:]))
