"""JSON events for programs: one object a line, flushed at once.

::

    {"event": "ready", "url": "https://...", "tls_socket": ["h", 8443], "tcp_socket": ["h", 20001] | null}
        and "target": "localhost:8000", the local service, and "inspector_url": "http://..." with --inspect
    {"event": "state", "state": "reconnecting", "message": "...", "time": 1700000000.0}
    {"event": "visitor" | "origin" | "warning" | "resumed" | "lost", "message": "...", "time": 1700000000.0}
    {"event": "request", "kind": "http", "visitor": "203.0.113.9", "method": "GET", "path": "/hello",
     "status": 200, "seconds": 0.004, ..., "time": 1700000000.0}
        the fields of ``quictunnel.RequestSummary``; only with --requests
    {"event": "requests_skipped", "count": 12, "time": 1700000000.0}
        requests without an event of their own, because there were too many at once
    {"event": "fetched", ...}                     of the demo
    {"event": "closed"}

    {"event": "error", "kind": "auth", "message": "...", "hint": "...", "exit_status": 2}
        of ``cli.main``

``ready`` comes first and ``closed`` last; ``error`` follows if the tunnel has failed. If it never opened,
``error`` is the only line.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, TextIO

from quictunnel.cli.reporter import one_line
from quictunnel.events import STATES, WARNING
from quictunnel.shared.output import SteadyOutput

if TYPE_CHECKING:
    from quictunnel.cli.reporter import OpenedTunnel
    from quictunnel.cli.request_lines import RequestBatch
    from quictunnel.events import ClientEvent


def lost_event(count: int, why: str) -> str:
    """Return the event that replaces ``count`` lines which could not be written."""
    message = f"{count} lines before this one could not be written: {why}"
    return json.dumps({"event": WARNING, "message": message, "time": time.time()})


class JsonReporter:
    """:class:`~quictunnel.cli.reporter.Reporter` that prints JSON events."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        if isinstance(out, SteadyOutput):
            out.lost = lost_event
        self._was_ready = False

    def opened(self, opened: OpenedTunnel) -> None:
        """Print ``ready`` with the public addresses."""
        tunnel = opened.tunnel
        self._was_ready = True
        self.emit(
            "ready",
            url=tunnel.url,
            tls_socket=list(tunnel.tls_socket),
            tcp_socket=list(tunnel.tcp_socket) if opened.has_tcp else None,
            target=opened.target,
            **({"inspector_url": tunnel.inspector_url} if tunnel.inspector_url else {}),
        )

    def event(self, event: ClientEvent) -> None:
        """Print an event of the client."""
        message = one_line(event.message)
        if event.kind in STATES:
            # "closed" is also a state, but the line with that name comes last and only once.
            self.emit("state", state=event.kind, message=message, time=event.time)
        else:
            self.emit(event.kind, message=message, time=event.time)

    def requests(self, batch: RequestBatch) -> None:
        """Print an event for each request."""
        now = time.time()
        for summary in batch.shown:
            self.emit("request", **summary._asdict(), time=now)
        if batch.skipped:
            self.emit("requests_skipped", count=batch.skipped, time=now)

    def note(self, message: str) -> None:
        """Print nothing: messages are for people."""

    def tick(self) -> None:
        """Print nothing: a program that needs numbers uses the Python interface."""

    def closing(self) -> None:
        """Print nothing: ``closed`` follows after the drain."""

    def closed(self) -> None:
        """Print ``closed`` if the tunnel was open."""
        if self._was_ready:
            self.emit("closed")

    def emit(self, event: str, **fields: object) -> None:
        """Print one event with its fields."""
        print(json.dumps({"event": event, **fields}), file=self._out, flush=True)
