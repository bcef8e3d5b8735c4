"""The operator's page, followed live: without a page."""

from __future__ import annotations

from typing import Any

import pytest

from edge_server.admin.event_stream import EventStream


async def test_error_in_an_event_stream_reaches_the_server():
    """The HTTP server logs the error; in a task of its own it would be lost."""
    sent = []

    async def receive() -> Any:
        raise ValueError("a fault of ours")

    async def send(message: Any) -> None:
        sent.append(message["type"])

    feed = EventStream(dict)
    with pytest.raises(ValueError, match="a fault of ours"):
        await feed({"type": "http"}, receive, send)
    assert sent
    assert feed._followers == 0
