"""The HTTP listener of port 80: responds to http-01 validations (RFC 8555 section 8.3) and redirects others to
HTTPS."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Final

from edge_server.ingress.tls_listener import peer_address
from edge_server.resources.fair_places import FairPlaces
from quictunnel.transport.lingering_close import LingeringClose
from quictunnel.transport.tcp import reset

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_REQUEST: Final = 8 * 1024
"""Bytes of a request's head; those of validators have a few hundred, those of browsers rarely exceed 4 KiB."""
MAX_CONNECTIONS: Final = 64
"""Connections at once. When one more arrives, the network with most of them loses its oldest, so that no peer can
lock validators out. Each is served within a round trip, or closed after HEAD_TIMEOUT. Their descriptors are part
of the edge's own reserve."""
HEAD_TIMEOUT: Final = 5.0
"""Seconds for the whole head."""
PATH: Final = "/.well-known/acme-challenge/"
"""Path prefix of http-01 (RFC 8555 section 8.3)."""

_LINE: Final = re.compile(r"(GET|HEAD) (/[!-~]{0,2000}) HTTP/1\.[01]")
_HOST: Final = re.compile(r"(?i)\r\nhost:[ \t]*([a-z0-9.-]{1,253})(?::[0-9]{1,5})?[ \t]*\r\n")


class Http01Responder:
    """The protocol factory for ``loop.create_server``."""

    def __init__(self, challenges: Mapping[str, str], https_port: int) -> None:
        """``challenges``: key authorizations by token. ``https_port``: of the redirects."""
        self.challenges = challenges
        self.port = "" if https_port == 443 else f":{https_port}"
        self.connections: FairPlaces[_Http01Connection] = FairPlaces(
            MAX_CONNECTIONS, protected_for=HEAD_TIMEOUT, clock=time.monotonic
        )

    def __call__(self) -> asyncio.Protocol:
        """Return a protocol for one connection."""
        return _Http01Connection(self)

    def abort(self) -> None:
        """Reset all connections."""
        for connection in self.connections:
            connection.abort()

    def response_to(self, head: bytes) -> bytes:
        """Return the whole response to a request's head."""
        text = head.decode("latin-1")
        request_line = _LINE.fullmatch(text.partition("\r\n")[0])
        if request_line is None:
            return _response("400 Bad Request", b"Only GET and HEAD requests of HTTP/1 are supported.\n")
        _, path = request_line.groups()
        if path.startswith(PATH):
            found = self.challenges.get(path.removeprefix(PATH))
            if found is None:
                return _response("404 Not Found", b"No validation is pending for this token.\n")
            return _response("200 OK", found.encode(), kind="application/octet-stream")
        host = _HOST.search(text)
        if host is None:
            return _response("400 Bad Request", b"The request has no Host field.\n")
        where = f"Location: https://{host[1].lower()}{self.port}{path}\r\n"
        return _response("308 Permanent Redirect", b"", more=where)


class _Http01Connection(asyncio.Protocol):
    """A connection with a single response."""

    _transport: asyncio.Transport

    def __init__(self, responder: Http01Responder) -> None:
        self._responder = responder
        self._head = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place and start the deadline."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's transports are asyncio's by behaviour
        self._timer = asyncio.get_running_loop().call_later(HEAD_TIMEOUT, self.abort)
        evicted = self._responder.connections.acquire(self, peer_address(transport))
        if evicted is not None:
            evicted.abort()

    def data_received(self, data: bytes) -> None:
        """Respond once the head is complete or too large."""
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._respond(self._responder.response_to(bytes(self._head)))
        elif len(self._head) > MAX_REQUEST:
            self._respond(_response("431 Request Header Fields Too Large", b""))

    def connection_lost(self, _: Exception | None) -> None:
        """Give the place back."""
        self._on_closed()

    def abort(self) -> None:
        """Reset the connection."""
        reset(self._transport)

    def _respond(self, response: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        LingeringClose(self._transport, response, loop=asyncio.get_running_loop(), on_closed=self._on_closed)

    def _on_closed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._responder.connections.release(self)


def _response(status: str, body: bytes, *, kind: str = "text/plain", more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body
