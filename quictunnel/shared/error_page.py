"""Error pages for visitors: an HTML page for browsers, one line of text for other programs.

Client and edge answer in place of an origin that they cannot reach. A page repeats nothing of the visitor's
request. Only the method and the Accept field are read, from at most :data:`MAX_HEAD` bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Final

from quictunnel.shared.proxy_header import proxy_header

MAX_HEAD: Final = 8 * 1024
"""Bytes of a request that are read for its Accept field. A longer head is answered by what is known then."""
MAX_METHOD: Final = 24
"""Bytes after which text without a space is not an HTTP method."""

_METHOD = re.compile(rb"([A-Z][A-Z-]{0,22}) [!-~]")
_END = re.compile(rb"\r?\n\r?\n")
_ACCEPT = re.compile(rb"\r?\naccept[ \t]*:([^\r\n]*)", re.IGNORECASE)
_HTML = re.compile(rb"[ \t]*(?:text/html|application/xhtml\+xml)[ \t]*(?:;[^,]*)?", re.IGNORECASE)
_ZERO = re.compile(rb";[ \t]*q=0(?:\.0{0,3})?[ \t]*(?:;|$)", re.IGNORECASE)

_STYLE: Final = """
:root{color-scheme:light dark;
--back:#f6f7f9;--card:#fff;--text:#1c2430;--soft:#56616f;--line:#dfe3e8;--mark:#b3261e}
@media (prefers-color-scheme:dark){
:root{--back:#12161c;--card:#1a2028;--text:#e8ebef;--soft:#a3adb9;--line:#2d3641;--mark:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:16px;
background:var(--back);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{width:100%;max-width:34rem;padding:32px;
background:var(--card);border:1px solid var(--line);border-radius:12px}
p{margin:12px 0 0}
.status{margin:0;color:var(--mark);font-weight:600}
h1{margin:4px 0 0;font-size:1.5rem;line-height:1.25;overflow-wrap:anywhere}
.hint{padding-top:12px;border-top:1px solid var(--line);color:var(--soft)}
"""


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """The content of one error page."""

    status: str
    """HTTP status and reason phrase."""
    title: str
    """Heading, for people."""
    text: str
    """The cause, as a sentence without its first capital letter and its full stop."""
    hint: str = ""
    """Advice; in the HTML page only."""
    retry_after: int | None = None
    """Seconds after which another attempt makes sense."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The parts of a request on which the form of an error page depends."""

    method: str
    accepts_html: bool


class NotHttpError(Exception):
    """The visitor speaks no HTTP/1, so it would not understand a page."""


class RequestHeadReader:
    """Reads the head of an HTTP/1 request, however it is split, also behind a PROXY protocol header: the edge may
    have put one before the bytes of a visitor whom its client then refuses."""

    __slots__ = ("_head", "_is_past_proxy_header")

    def __init__(self) -> None:
        """Start without input."""
        self._head = b""
        self._is_past_proxy_header = False

    def feed(self, data: bytes) -> RequestHead | None:
        """Take more bytes, and return the head once it is complete or too long.

        Raises:
            NotHttpError: these bytes are the beginning of no HTTP/1 request.
        """
        start = max(0, len(self._head) - 3)
        self._head = (self._head + data)[:MAX_HEAD]
        if not self._is_past_proxy_header:
            size = proxy_header(self._head)
            if size < 0:
                return None
            if size:
                self._head, self._is_past_proxy_header, start = self._head[size:], True, 0
        method = method_of(self._head)
        if method is None:
            raise NotHttpError
        if not method:
            return None
        end = _END.search(self._head, start)
        if end is not None:
            self._head = self._head[: end.start()]
        return self.known if end is not None or len(self._head) == MAX_HEAD else None

    @property
    def known(self) -> RequestHead | None:
        """Return what is known so far, for a request that does not continue; None without a method."""
        method = method_of(self._head)
        return RequestHead(method, _accepts_html(self._head)) if method else None


def method_of(head: bytes) -> str | None:
    """Return the method of an HTTP/1 request from its first bytes; '' while undecided; None for other
    protocols."""
    match = _METHOD.match(head)
    if match:
        # The HTTP/2 preface looks like a request with the method PRI (RFC 9113 section 3.4).
        return None if match[1] == b"PRI" else match[1].decode()
    undecided = len(head) < MAX_METHOD and re.fullmatch(rb"([A-Z][A-Z-]*( )?)?", head)
    return "" if undecided else None


def _accepts_html(head: bytes) -> bool:
    """Return True if the request names HTML among the types that it accepts. ``*/*`` is no such request: programs
    such as curl send it."""
    for field in _ACCEPT.findall(head):
        for media_type in field.split(b","):
            if _HTML.fullmatch(media_type) and not _ZERO.search(media_type):
                return True
    return False


def http_response(page: ErrorPage, request: RequestHead) -> bytes:
    """Return the HTTP/1.1 response with a page, as HTML or as text; without a body for HEAD."""
    if request.accepts_html:
        body, content_type = _html(page).encode(), "text/html; charset=utf-8"
        policy = f"Content-Security-Policy: {_content_policy()}\r\n"
    else:
        body, content_type, policy = f"{page.status}: {page.text}.\n".encode(), "text/plain; charset=utf-8", ""
    retry = "" if page.retry_after is None else f"Retry-After: {page.retry_after}\r\n"
    head = (
        f"HTTP/1.1 {page.status}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{retry}{policy}"
        "Cache-Control: no-store\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Referrer-Policy: no-referrer\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    return head if request.method == "HEAD" else head + body


@cache
def _content_policy() -> str:
    """Return the content security policy: nothing but the one style sheet, and the icon that is none."""
    import base64  # noqa: PLC0415 - only for a program that sends a page
    import hashlib  # noqa: PLC0415 - likewise: it loads OpenSSL

    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; sandbox"
    )


def _html(page: ErrorPage) -> str:
    cause = escape(f"{page.text[:1].upper()}{page.text[1:]}.")
    hint = f'<p class="hint">{escape(page.hint)}</p>\n' if page.hint else ""
    # The empty icon keeps browsers from requesting /favicon.ico on another connection.
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        '<meta name="robots" content="noindex">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(page.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<p class="status">{escape(page.status)}</p>\n<h1>{escape(page.title)}</h1>\n'
        f"<p>{cause}</p>\n{hint}</main>\n</body>\n</html>\n"
    )
