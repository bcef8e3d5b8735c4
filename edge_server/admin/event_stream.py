"""Live updates: server-sent events (WHATWG HTML, section 9.2), one snapshot a second.

Nothing is queued. A follower gets the newest snapshot when its transport has room; slow readers skip those in
between. All followers get the same bytes, encoded once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edge_server.admin.responses import problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.shared.web_security import Message, Receive, Send

SNAPSHOT_INTERVAL: Final = 1.0
"""Seconds between snapshots."""
MAX_FOLLOWERS: Final = 8
"""Streams at once; each costs 100 kB a second."""


class EventStream:
    """The stream of snapshots, an ASGI endpoint."""

    def __init__(self, make_snapshot: Callable[[], Any]) -> None:
        """``make_snapshot`` returns the snapshot; called at most once a second, and only for followers."""
        self._make_snapshot = make_snapshot
        self._followers = 0
        self._closed = asyncio.Event()
        self._made_at = float("-inf")
        self._newest = b""

    def close(self) -> None:
        """End all streams; the page reconnects, possibly to a successor."""
        self._closed.set()

    def newest(self) -> bytes:
        """Return the current event, encoded."""
        now = asyncio.get_running_loop().time()
        if now >= self._made_at + SNAPSHOT_INTERVAL * 0.9:
            self._made_at = now
            self._newest = b"event: snapshot\ndata: " + msgspec.json.encode(self._make_snapshot()) + b"\n\n"
        return self._newest

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Send snapshots until the follower disconnects or :meth:`close` is called."""
        if self._followers >= MAX_FOLLOWERS:
            refusal = problem(503, "too-many-followers", f"At most {MAX_FOLLOWERS} streams may be open at once.")
            await refusal(scope, receive, send)
            return
        self._followers += 1
        disconnected = asyncio.create_task(_until_disconnect(receive))
        closed = asyncio.create_task(self._closed.wait())
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not (disconnected.done() or closed.done()):
                # Returns when the transport has room for more; http_server ends a connection that reads nothing.
                await send({"type": "http.response.body", "body": self.newest(), "more_body": True})
                await asyncio.wait(
                    (disconnected, closed), timeout=SNAPSHOT_INTERVAL, return_when=asyncio.FIRST_COMPLETED
                )
            if disconnected.done():
                disconnected.result()  # re-raises a failure, for the caller to report
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._followers -= 1
            for task in (disconnected, closed):
                task.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
