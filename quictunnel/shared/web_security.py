"""ASGI middleware that protects a local web page and its API for one user.

Against other web sites in the same browser, it checks the Host header (DNS rebinding) and the Origin header, and
the API requires a token that browsers do not send by themselves. Against hostile text on the page, a content
security policy allows only the page's own scripts. Client and edge both use it; it needs no package.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Host names of a page on this machine. Any port is accepted, because ``ssh -L`` and containers change it."""

HEADERS: Final[tuple[tuple[bytes, bytes], ...]] = (
    (
        b"content-security-policy",
        (
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
            b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            b"require-trusted-types-for 'script'; trusted-types 'none'"
        ),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)
"""Headers of every response. No CORS header is among them, so no other origin may read anything. Trusted Types
forbid the page's scripts to turn text into HTML, so a hostile name cannot become code even by a bug of the
page."""

_WRONG: Final = "The token is missing or wrong. Open the printed address, including the part after #."

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")


class WebGuard:
    """ASGI middleware that checks host, origin and token of each request.

    Args:
        app: the protected ASGI application.
        token: secret that API requests must send as ``Authorization: Bearer``; compared in constant time.
        guarded: path prefixes that require the token. Other paths are the page's own files, without secrets.
        names: accepted host names besides those of loopback; an IPv6 address needs brackets.
    """

    def __init__(
        self, app: App, *, token: str, guarded: Collection[str] = ("/api/",), names: Collection[str] = ()
    ) -> None:
        if not token:
            raise ValueError("the token is empty: anybody could read the page")
        self._app = app
        self._token = token.encode()
        self._guarded = tuple(guarded)
        self._names = LOOPBACK_NAMES | {name.lower() for name in names}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = self.headers_of(scope["path"])
                ours = {name for name, _ in headers}
                others = [pair for pair in message.get("headers", ()) if pair[0].lower() not in ours]
                message = {**message, "headers": [*others, *headers]}
            await send(message)

        rejection = self._rejection(scope)
        if rejection is not None:
            await self.refusal(*rejection)(scope, receive, guarded_send)
        else:
            await self._app(scope, receive, guarded_send)

    # A subclass may override these.

    headers = HEADERS

    def headers_of(self, path: str) -> tuple[tuple[bytes, bytes], ...]:  # noqa: ARG002 - subclasses use it
        """Return the headers of the responses at a path."""
        return self.headers

    def refusal(self, status: int, why: str) -> App:
        """Return the ASGI application that answers a rejected request."""
        return _Refusal(status, why)

    def is_known(self, host: str) -> bool:
        """Return True if a host name is accepted; lower case, without the port."""
        return host in self._names

    def is_own(self, origin: str, scheme: str, host: str) -> bool:
        """Return True if an Origin header names this page; ``host`` is the request's Host header, with the
        port."""
        return origin == f"{scheme}://{host}"

    def wants_token(self, path: str) -> bool:
        """Return True if a path requires the token."""
        return path.startswith(self._guarded)

    def check_token(self, scope: Message, token: str) -> tuple[int, str] | None:  # noqa: ARG002 - subclasses use it
        """Return status and text of the error for a request's token ('' if it has none), or None if it is
        right."""
        return None if self.is_right(token) else (401, _WRONG)

    def is_right(self, token: str) -> bool:
        """Compare a token in constant time."""
        return hmac.compare_digest(token.encode("latin-1"), self._token)

    # Internal.

    def _rejection(self, scope: Message) -> tuple[int, str] | None:
        """Return status and text of the error for a request, or None if it is accepted."""
        hosts = _values(scope, b"host")
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None or not self.is_known(match[1].lower()):
            return 421, "The host name of the request is not one of this page. Open the printed address."
        origins = _values(scope, b"origin")
        scheme = scope.get("scheme", "http")
        if origins and not (len(origins) == 1 and self.is_own(origins[0], scheme, hosts[0])):
            return 403, "Requests from other origins are forbidden."
        if not self.wants_token(scope["path"]):
            return None
        if _values(scope, b"sec-fetch-site") not in ([], ["same-origin"], ["none"]):
            return 403, "Requests from other sites are forbidden."
        given = _values(scope, b"authorization")
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        return self.check_token(scope, token.strip() if kind.lower() == "bearer" else "")


def name_of(host: str) -> str:
    """Return an address as in a ``Host`` header: IPv6 in brackets."""
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _values(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


class _Refusal:
    def __init__(self, status: int, why: str) -> None:
        self._status = status
        self._body = f"{why}\n".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's call
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(self._body)).encode()),
            *([(b"www-authenticate", b"Bearer")] if self._status == 401 else []),
        ]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})
