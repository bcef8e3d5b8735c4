"""The inspector's page and API as a Starlette application. It runs on the inspector's thread."""

from __future__ import annotations

import asyncio
import json
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from quictunnel.inspect import limits
from quictunnel.inspect.curl import curl_of
from quictunnel.inspect.exchange_store import Watcher
from quictunnel.inspect.views import detail, replay_error, summary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from quictunnel.inspect.exchange_store import Exchange, ExchangeStore
    from quictunnel.inspect.recorder import Recorder
    from quictunnel.inspect.replay import Replays

FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/inspector.css": ("inspector.css", "text/css; charset=utf-8"),
    "/inspector.js": ("inspector.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Site:
    """Page and API of one tunnel's inspector."""

    def __init__(self, store: ExchangeStore, recorder: Recorder, replays: Replays, port: int) -> None:
        self._store = store
        self._recorder = recorder
        self._replays = replays
        self._port = port
        self._is_closing = False
        self._change_events: set[asyncio.Event] = set()
        self.public = ""
        """The tunnel's public URL; empty until the tunnel is open."""
        folder = resources.files("quictunnel.inspect") / "page"
        files = [(path, (folder / name).read_bytes(), media) for path, (name, media) in FILES.items()]
        self.app = Starlette(
            routes=[
                *(Route(path, _file(content, media)) for path, content, media in files),
                Route("/api/events", self._stream_events),
                Route("/api/exchanges", self._list_exchanges),
                Route("/api/exchanges/{number:int}", self._get_exchange),
                Route("/api/exchanges/{number:int}/curl", self._get_curl),
                Route("/api/exchanges/{number:int}/replay", self._start_replay, methods=["POST"]),
                Route("/api/clear", self._clear_exchanges, methods=["POST"]),
            ]
        )

    def close(self) -> None:
        """End the event streams of all pages."""
        self._is_closing = True
        for changed in self._change_events:
            changed.set()

    async def _list_exchanges(self, _: Request) -> Response:
        return JSONResponse(self._snapshot())

    async def _get_exchange(self, request: Request) -> Response:
        exchange = self._find_exchange(request)
        return _not_found() if exchange is None else JSONResponse(detail(exchange))

    async def _get_curl(self, request: Request) -> Response:
        exchange = self._find_exchange(request)
        if exchange is None:
            return _not_found()
        if not exchange.request.head:
            return _error(409, "There is no HTTP/1 request to copy.")
        command, missing = curl_of(exchange, self._port)
        return JSONResponse({"command": command, "note": missing})

    async def _start_replay(self, request: Request) -> Response:
        exchange = self._find_exchange(request)
        if exchange is None:
            return _not_found()
        if reason := replay_error(exchange):
            return _error(409, reason)
        if self._replays.is_busy:
            return _error(
                429, f"The limit of {limits.MAX_REPLAYS} running replays is reached; wait for one to end."
            )
        return JSONResponse({"id": self._replays.start(exchange)}, 202)

    async def _clear_exchanges(self, _: Request) -> Response:
        self._store.clear()
        return JSONResponse({})

    async def _stream_events(self, _: Request) -> Response:
        if len(self._store.watchers) >= limits.MAX_PAGES:
            return _error(503, f"The limit of {limits.MAX_PAGES} open pages is reached; close one.")
        changed = asyncio.Event()
        watcher = Watcher(changed)
        self._store.watchers.add(watcher)
        return StreamingResponse(self._event_stream(watcher, changed), media_type="text/event-stream")

    async def _event_stream(self, watcher: Watcher, changed: asyncio.Event) -> AsyncIterator[str]:
        """Yield server-sent events until the page closes. A slow page gets larger events, not more of them."""
        self._change_events.add(changed)
        try:
            yield _event("all", self._snapshot())
            while not self._is_closing:
                try:
                    async with asyncio.timeout(limits.HEARTBEAT_INTERVAL):
                        await changed.wait()
                except TimeoutError:
                    yield ": no changes\n\n"
                    continue
                yield self._changes(watcher)
                await asyncio.sleep(limits.FLUSH_INTERVAL)  # changes in this time go into one event
        finally:
            self._change_events.discard(changed)
            self._store.watchers.discard(watcher)

    def _changes(self, watcher: Watcher) -> str:
        numbers = watcher.take()
        if numbers is None:
            return _event("all", self._snapshot())
        found = [(number, self._store.get(number)) for number in numbers]
        return _event(
            "changed",
            {
                "changed": [summary(exchange) for _, exchange in found if exchange is not None],
                "gone": [number for number, exchange in found if exchange is None],
                "unseen": self._recorder.unseen_connections,
            },
        )

    def _snapshot(self) -> dict[str, Any]:
        return {
            "port": self._port,
            "public": self.public,
            "most": limits.MAX_EXCHANGES,
            "unseen": self._recorder.unseen_connections,
            "exchanges": [summary(exchange) for exchange in self._store],
        }

    def _find_exchange(self, request: Request) -> Exchange | None:
        return self._store.get(request.path_params["number"])


def _file(content: bytes, media: str) -> Any:
    async def serve(_: Request) -> Response:
        return Response(content, media_type=media)

    return serve


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _not_found() -> Response:
    return _error(404, "The exchange is not stored any more.")


def _error(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)
