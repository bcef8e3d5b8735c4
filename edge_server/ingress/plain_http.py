"""A strict parser for an HTTP request without TLS: its host and its path.

Sans-IO: bytes in, a :class:`Request` or :class:`RequestError` out. At most :data:`MAX_HEAD` bytes are read.
Routing by the host is up to the caller. The two possible responses to such a request are built here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from edge_server.ingress.client_hello import HelloError, read_host_name

MAX_HEAD: Final = 16 * 1024
"""Bytes of a request's head, the same bound as for a ClientHello; those of browsers rarely exceed 4 KiB."""

_END: Final = b"\r\n\r\n"
_LINE: Final = re.compile(rb"[A-Z]{1,16} (?:(?i:http)://([!-.0-~]+))?(/[!-\"$-~\x80-\xff]*) HTTP/1\.[01]")
"""Origin form or absolute form (RFC 9112 sections 3.2.1 and 3.2.2). A path in raw UTF-8, which curl sends as
typed, is accepted unchanged."""
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\0\r\n]*)")
_PORT: Final = re.compile(rb":[0-9]{0,5}\Z")

_HTTPS_PLEASE: Final = b"This port speaks TLS: use https:// instead of http://\n"
BAD_REQUEST: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(_HTTPS_PLEASE), _HTTPS_PLEASE)
)
"""The one response to a request for no tunnel, for an unknown one, or that cannot be parsed."""


@dataclass(frozen=True, slots=True)
class Request:
    """The parts of a request that a redirect needs."""

    host: str
    """Host name in lower case, without a trailing dot and the port: letters, digits and hyphens only."""
    target: bytes
    """Path and query with a leading slash; no spaces, control characters or fragment."""


class RequestError(Exception):
    """The request is malformed, too long, or has no host."""


class RequestReader:
    """Reads the head of one request, however it is split. After a result or an error it must not be used again."""

    __slots__ = ("_received",)

    def __init__(self) -> None:
        """Start without input."""
        self._received = bytearray()

    def feed(self, data: bytes | bytearray) -> Request | None:
        """Take more bytes. Return the request, or None while the head is incomplete. Raises RequestError."""
        start = max(0, len(self._received) - len(_END))
        self._received += data
        end = self._received.find(_END, start, MAX_HEAD)
        if end >= 0:
            return _read_head(bytes(self._received[:end]))
        if len(self._received) >= MAX_HEAD:
            raise RequestError("a head above 16 KiB")
        return None


def redirect(base_url: str, request: Request) -> bytes:
    """Return a response that redirects a visitor to the same path below an ``https://`` base URL, with its method
    and body (RFC 9110 section 15.4.9). It is not cacheable: a later edge at this name may use another port."""
    return (
        b"HTTP/1.1 308 Permanent Redirect\r\nLocation: %b%b\r\nCache-Control: no-store\r\n"
        b"Content-Length: 0\r\nConnection: close\r\n\r\n" % (base_url.encode("ascii"), request.target)
    )


def _read_head(head: bytes) -> Request:
    line, *fields = head.split(b"\r\n")
    request_line = _LINE.fullmatch(line)
    if request_line is None:
        raise RequestError("no request line")
    hosts = []
    for field in fields:
        found = _FIELD.fullmatch(field)
        if found is None:
            raise RequestError("no header field")
        if found[1].lower() == b"host":
            hosts.append(found[2].strip(b" \t"))
    if len(hosts) != 1:
        raise RequestError("no host, or several")  # RFC 9112 section 3.2
    # The absolute form takes precedence over the field (RFC 9112 section 3.2.2).
    authority = hosts[0] if request_line[1] is None else request_line[1]
    try:
        return Request(read_host_name(_PORT.sub(b"", authority)), request_line[2])
    except HelloError as error:
        raise RequestError(error.reason) from None
