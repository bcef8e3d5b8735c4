"""The HTTP door: validators of http-01 are answered (RFC 8555 section 8.3), everybody else is sent to https."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Final

from edge_server.ingress.lingering_close import LingeringClose
from edge_server.ingress.tls_listener import host_of
from edge_server.resources.fair_places import FairPlaces
from quictunnel.transport.tcp import reset

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REQUEST: Final = 8 * 1024
"""Bytes of a request's head; validators' have some hundred, browsers' rarely more than 4 KiB."""
MAX_GUESTS: Final = 64
"""Connections at once; with one more, the network that has most of them loses its oldest, so that nobody keeps
validators out. Each is answered within a round trip, or gone in PATIENCE. Their descriptors come out of the edge's
own reserve."""
PATIENCE: Final = 5.0
"""Seconds for the whole head."""
PATH: Final = "/.well-known/acme-challenge/"

_LINE: Final = re.compile(r"(GET|HEAD) (/[!-~]{0,2000}) HTTP/1\.[01]")
_HOST: Final = re.compile(r"(?i)\r\nhost:[ \t]*([a-z0-9.-]{1,253})(?::[0-9]{1,5})?[ \t]*\r\n")


class Http01Responder:
    """What ``loop.create_server`` calls for each connection."""

    def __init__(self, answers: Mapping[str, str], https_port: int) -> None:
        """``answers``: key authorizations by token. ``https_port``: where visitors are sent."""
        self.answers = answers
        self.port = "" if https_port == 443 else f":{https_port}"
        self.guests: FairPlaces[_Guest] = FairPlaces(MAX_GUESTS, patience=PATIENCE, clock=time.monotonic)

    def __call__(self) -> asyncio.Protocol:
        return _Guest(self)

    def abort(self) -> None:
        for guest in self.guests:
            guest.abort()

    def answer(self, head: bytes) -> bytes:
        """The whole answer to a request's head."""
        text = head.decode("latin-1")
        asked = _LINE.fullmatch(text.partition("\r\n")[0])
        if asked is None:
            return _response("400 Bad Request", b"This is no request that is answered here.\n")
        _, path = asked.groups()
        if path.startswith(PATH):
            found = self.answers.get(path.removeprefix(PATH))
            if found is None:
                return _response("404 Not Found", b"Nothing is being proved by that token.\n")
            return _response("200 OK", found.encode(), kind="application/octet-stream")
        host = _HOST.search(text)
        if host is None:
            return _response("400 Bad Request", b"The request says no host.\n")
        where = f"Location: https://{host[1].lower()}{self.port}{path}\r\n"
        return _response("308 Permanent Redirect", b"", more=where)


class _Guest(asyncio.Protocol):
    """One connection, which is answered once."""

    _transport: asyncio.Transport

    def __init__(self, door: Http01Responder) -> None:
        self._door = door
        self._head = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are asyncio's by behaviour
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self.abort)
        loser = self._door.guests.enter(self, host_of(transport))
        if loser is not None:
            loser.abort()

    def data_received(self, data: bytes) -> None:
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._say(self._door.answer(bytes(self._head)))
        elif len(self._head) > MAX_REQUEST:
            self._say(_response("431 Request Header Fields Too Large", b""))

    def connection_lost(self, _: Exception | None) -> None:
        self._gone()

    def abort(self) -> None:
        reset(self._transport)

    def _say(self, answer: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        LingeringClose(self._transport, answer, loop=asyncio.get_running_loop(), on_gone=self._gone)

    def _gone(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._door.guests.leave(self)


def _response(status: str, body: bytes, *, kind: str = "text/plain", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
