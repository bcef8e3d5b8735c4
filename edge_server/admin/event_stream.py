"""Live updates: server-sent events (WHATWG HTML, section 9.2), a snapshot a second.

Nothing is queued. Whoever follows is given the newest snapshot when there is room for it in the transport; who
reads slowly skips those in between. All that follow get the same bytes, made once.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import msgspec

from edge_server.admin.responses import problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.shared.web_security import Message, Receive, Send

EVERY: Final = 1.0
"""Seconds between snapshots."""
MAX_FOLLOWERS: Final = 8
"""At once: each costs 100 kB a second."""


class EventStream:
    """See the module (an ASGI endpoint)."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """``make``: the snapshot, at most once a second and only while somebody follows."""
        self._make = make
        self._followers = 0
        self._over = asyncio.Event()
        self._made_at = float("-inf")
        self._newest = b""

    def close(self) -> None:
        """Send everybody away; they ask again, perhaps a successor."""
        self._over.set()

    def newest(self) -> bytes:
        """The event that is true now."""
        now = asyncio.get_running_loop().time()
        if now >= self._made_at + EVERY * 0.9:
            self._made_at = now
            self._newest = b"event: snapshot\ndata: " + msgspec.json.encode(self._make()) + b"\n\n"
        return self._newest

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._followers >= MAX_FOLLOWERS:
            refusal = problem(503, "too-many-followers", f"At most {MAX_FOLLOWERS} may follow at once.")
            await refusal(scope, receive, send)
            return
        self._followers += 1
        gone = asyncio.create_task(_until_gone(receive))
        over = asyncio.create_task(self._over.wait())
        try:
            headers = [(b"content-type", b"text/event-stream"), (b"x-accel-buffering", b"no")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while not (gone.done() or over.done()):
                # Returns when the transport has room for more; a connection that takes nothing is ended in http.
                await send({"type": "http.response.body", "body": self.newest(), "more_body": True})
                await asyncio.wait((gone, over), timeout=EVERY, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                gone.result()  # whatever failed there is the caller's to report
            await send({"type": "http.response.body", "body": b""})
        finally:
            self._followers -= 1
            for task in (gone, over):
                task.cancel()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
