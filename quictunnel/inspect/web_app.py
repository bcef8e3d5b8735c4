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
from quictunnel.inspect.edited_request import EditError, read_edited
from quictunnel.inspect.exchange_store import Direction, Watcher
from quictunnel.inspect.har import har_pieces, is_exportable
from quictunnel.inspect.search import Searches
from quictunnel.inspect.views import detail, edit_error, image_of, replay_error, summary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from quictunnel.inspect.exchange_store import Exchange, ExchangeStore
    from quictunnel.inspect.recorder import Recorder
    from quictunnel.inspect.replay import Replays
    from quictunnel.origin.target import Target

MAX_INDEX: Final = 9
"""Digits of the index of a form's field."""
FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/inspector.css": ("inspector.css", "text/css; charset=utf-8"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("inspector", "api", "content", "detail", "editor", "search", "timeline", "tree", "words")
    },
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Site:
    """Page and API of one tunnel's inspector."""

    def __init__(self, store: ExchangeStore, recorder: Recorder, replays: Replays, target: Target) -> None:
        self._store = store
        self._recorder = recorder
        self._replays = replays
        self._searches = Searches(store)
        self._target = target
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
                Route("/api/exchanges/{number:int}/har", self._export_exchange),
                Route("/api/exchanges/{number:int}/{direction:str}/image", self._get_image),
                Route("/api/exchanges/{number:int}/replay", self._start_replay, methods=["POST"]),
                Route("/api/exchanges/{number:int}/edited", self._start_edited, methods=["POST"]),
                Route("/api/har", self._export_all),
                Route("/api/search", self._search),
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
        command, missing = curl_of(exchange, self._target)
        return JSONResponse({"command": command, "note": missing})

    async def _get_image(self, request: Request) -> Response:
        exchange = self._find_exchange(request)
        try:
            direction = Direction(request.path_params["direction"])
        except ValueError:
            return _not_found()
        index = request.query_params.get("field", "")
        field = int(index) if index.isascii() and index.isdigit() and len(index) < MAX_INDEX else None
        found = None if exchange is None else image_of(exchange.message(direction), field)
        return _not_found() if found is None else Response(found[0], media_type=found[1])

    async def _export_exchange(self, request: Request) -> Response:
        exchange = self._find_exchange(request)
        if exchange is None:
            return _not_found()
        if not is_exportable(exchange):
            return _error(409, "There is no HTTP/1 request to export.")
        return self._export([exchange])

    async def _export_all(self, _: Request) -> Response:
        return self._export(list(self._store))

    def _export(self, exchanges: list[Exchange]) -> Response:
        base = self.public or self._target.base_url.replace("127.0.0.1", "localhost")

        async def pieces() -> AsyncIterator[str]:
            for piece in har_pieces(exchanges, base):
                yield piece
                await asyncio.sleep(limits.MIN_SLICE_INTERVAL)  # recording goes on

        return StreamingResponse(pieces(), media_type="application/json")

    async def _search(self, request: Request) -> Response:
        text = request.query_params.get("text", "")
        if not 0 < len(text) <= limits.MAX_SEARCH_TEXT:
            return _error(422, f"The text to search for should have 1 to {limits.MAX_SEARCH_TEXT} characters.")
        if self._searches.is_busy:
            return _error(429, f"The limit of {limits.MAX_SEARCHES} running searches is reached; try again.")
        found = await self._searches.find(text)
        return JSONResponse(
            {
                "matches": [match._asdict() for match in found.matches],
                "searched": found.searched,
                "is_complete": found.is_complete,
            }
        )

    async def _start_replay(self, request: Request) -> Response:
        exchange = self._find_exchange(request)
        if exchange is None:
            return _not_found()
        if reason := replay_error(exchange):
            return _error(409, reason)
        if self._replays.is_busy:
            return _too_many_replays()
        return JSONResponse({"id": self._replays.start(exchange)}, 202)

    async def _start_edited(self, request: Request) -> Response:
        description = bytearray()
        async for piece in request.stream():
            description += piece
            if len(description) > limits.MAX_EDIT:
                return _error(413, f"The limit of {limits.MAX_EDIT} bytes for an edited request is exceeded.")
        exchange = self._find_exchange(request)
        if exchange is None:
            return _not_found()
        if reason := edit_error(exchange):
            return _error(409, reason)
        if self._replays.is_busy:
            return _too_many_replays()
        try:
            number = self._replays.start_edited(exchange, read_edited(bytes(description)))
        except EditError as why:
            return _error(422, str(why))
        return JSONResponse({"id": number}, 202)

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
            "port": self._target.port,
            "target": self._target.text,
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


def _too_many_replays() -> Response:
    return _error(429, f"The limit of {limits.MAX_REPLAYS} running replays is reached; wait for one to end.")


def _not_found() -> Response:
    return _error(404, "The exchange is not stored any more.")


def _error(status: int, why: str) -> Response:
    return JSONResponse({"error": why}, status)
