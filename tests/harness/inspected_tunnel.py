"""A web application behind an inspected tunnel, its visitors, and the inspector's API."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import http.server
import json
import socket
import struct
import threading
import urllib.error
import urllib.request
import zlib
from typing import TYPE_CHECKING, Any

import brotli
import uvicorn
import zstandard
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

import quictunnel
from quictunnel.shared.event_loop import EventLoopThread
from tests.harness.visitors import curl, tls_connect
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request
    from starlette.websockets import WebSocket

    from tests.harness.edge_process import EdgeProcess

MIB = 1024 * 1024
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(4)</script></svg>"


def png(width: int, height: int) -> bytes:
    """Return a black PNG image of one bit for each pixel; at most 1,000 lines are there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(bytes(1 + (width + 7) // 8) * min(height, 1000))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


class Origin:
    """A web application of which it is known what it answers, and that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.served: dict[str, tuple[bytes, dict[str, str]]] = {
            "/png": (png(300, 200), {"content-type": "text/html"}),
            "/wide": (png(60_000, 60_000), {"content-type": "image/png"}),
            "/svg": (SVG, {"content-type": "image/svg+xml"}),
        }
        """Content and headers of the responses at some paths, besides those below."""
        self.more = threading.Event()
        """Set: the stream of events goes on to its end."""
        app = Starlette(
            routes=[
                WebSocketRoute("/ws", self._echo),
                Route("/events", self._events),
                Route("/{path:path}", self._any, methods=["GET", "HEAD", "POST", "PUT", "DELETE"]),
            ]
        )
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(app, loop="none", lifespan="off", log_config=None, ws="websockets-sansio")
        self._server = uvicorn.Server(config)
        self._background = EventLoopThread("origin")
        self._serving = self._background.submit(self._server.serve(sockets=[self._socket]))

    def close(self) -> None:
        self.more.set()
        self._server.should_exit = True
        self._serving.result(10)
        self._background.stop()
        self._socket.close()

    async def _any(self, request: Request) -> Response:
        digest, body = hashlib.sha256(), b""
        async for chunk in request.stream():
            digest.update(chunk)
            body = (body + chunk)[:1000]
        path = request.url.path
        self.asked.append((request.method, path, body))
        if path in self.served:
            content, headers = self.served[path]
            return Response(content, headers=headers)
        match path:
            case "/json":
                return Response(b'{"name": "tea", "price": 3}', media_type="application/json")
            case "/gzip":
                packed = gzip.compress(b"told in full " * 100)
                return Response(packed, headers={"content-encoding": "gzip"}, media_type="text/plain")
            case "/br" | "/zstd":
                pack = {"/br": brotli.compress, "/zstd": zstandard.compress}[path]
                return Response(
                    pack(b"told in full " * 100), headers={"content-encoding": path[1:]}, media_type="text/plain"
                )
            case "/nothing":
                return Response(status_code=204)
            case "/digest":
                return PlainTextResponse(digest.hexdigest())
            case "/large":
                return StreamingResponse(self._large(), headers={"content-length": str(100 * MIB)})
            case "/binary":
                return Response(bytes(range(256)), media_type="application/octet-stream")
            case "/hostile":
                return Response(HOSTILE, headers={"x-hostile": HOSTILE}, media_type="text/html")
        return PlainTextResponse(f"{request.method} {len(body)}", 201 if request.method == "POST" else 200)

    async def _large(self) -> AsyncIterator[bytes]:
        for number in range(100):
            yield bytes([number]) * MIB

    async def _events(self, _: Request) -> Response:
        async def told() -> AsyncIterator[str]:
            yield "data: first\n\n"
            await asyncio.to_thread(self.more.wait, 30)
            yield "data: last\n\n"

        return StreamingResponse(told(), media_type="text/event-stream")

    async def _echo(self, websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text.upper())


class Quiet(http.server.BaseHTTPRequestHandler):
    """A page of a server that speaks HTTP/1.0 and closes."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<!doctype html>another site")

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """On a thread; the port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class InspectedTunnel:
    """A tunnel with an inspector, and its visitors."""

    def __init__(self, edge: EdgeProcess, tunnel: quictunnel.Tunnel) -> None:
        self.edge = edge
        self.tunnel = tunnel
        self.page_url = tunnel.inspector_url
        self.base, _, self.token = self.page_url.partition("#")

    def curl(self, *arguments: str) -> bytes:
        there = f"{self.tunnel.host}:{self.tunnel.port}:127.0.0.1"
        ended = curl(self.edge, "--resolve", there, *arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def url(self, path: str) -> str:
        return self.tunnel.url + path

    def request(self, path: str, method: str = "GET", **headers: str) -> urllib.request.Request:
        given = {"authorization": f"Bearer {self.token}"} | headers
        return urllib.request.Request(self.base + path, headers=given, method=method)

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
        """The inspector's API, with the token unless told otherwise."""
        try:
            with urllib.request.urlopen(self.request(path, method, **headers), timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def post(self, path: str, content: str) -> tuple[int, Any]:
        """Post to the inspector's API."""
        request = self.request(path, "POST")
        request.data = content.encode()
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def listed(self) -> list[dict[str, Any]]:
        return self.ask("api/exchanges")[1]["exchanges"]

    def settled(self, count: int) -> list[dict[str, Any]]:
        """So many exchanges, and each at its end."""
        eventually(lambda: len(self.listed()) == count, f"not {count}")
        eventually(lambda: all(each["state"] != "open" for each in self.listed()), "some do not end")
        return self.listed()

    def raw(self) -> ssl.SSLSocket:
        return tls_connect(self.edge, self.tunnel)


@contextlib.contextmanager
def running_origin() -> Iterator[Origin]:
    origin = Origin()
    try:
        yield origin
    finally:
        origin.close()


@contextlib.contextmanager
def inspect_tunnel(edge: EdgeProcess, client: quictunnel.Client, origin: Origin) -> Iterator[InspectedTunnel]:
    """A fresh tunnel to it."""
    origin.asked.clear()
    origin.more.clear()
    with quictunnel.forward(origin.port, client=client, inspect=True) as tunnel:
        yield InspectedTunnel(edge, tunnel)
