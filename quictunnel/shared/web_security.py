"""The door of a small web page that is for one person: who may knock, who may enter, and what a browser is told.

An ASGI middleware around a page and its API. Against a web site that the same browser has open: the host name is
looked at (a name that was rebound to this address is another name), so is the origin, and the API wants a token
that no browser sends by itself. Against what the page shows: a content security policy under which nothing but the
page's own files runs. Neutral: it knows neither client nor edge, and needs no package.
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
"""What a page on this machine is asked for as. Any port: ``ssh -L`` and containers give it others."""

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
"""With every answer. No CORS header is among them: no other origin may read anything. The page can make no HTML
out of text (Trusted Types), which keeps a hostile name from becoming code even if a script of ours should try."""

_WRONG: Final = "The token is missing or wrong. Open the address that was printed, with all that follows #."

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")


class WebGuard:
    """See the module.

    Args:
        app: what is guarded.
        token: what whoever uses the API has to send as ``Authorization: Bearer``; compared in constant time.
        guarded: beginnings of paths that want the token. The others are the page's own files, which hold nothing.
        names: host names that it may be asked for by, besides those of loopback; an IP address (an IPv6 one in
            brackets) or a name that is known to lead here.
    """

    def __init__(
        self, app: App, *, token: str, guarded: Collection[str] = ("/api/",), names: Collection[str] = ()
    ) -> None:
        if not token:
            raise ValueError("a page without a token is everybody's")
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
                ours = {name for name, _ in self.headers}
                others = [pair for pair in message.get("headers", ()) if pair[0].lower() not in ours]
                message = {**message, "headers": [*others, *self.headers]}
            await send(message)

        objection = self._objection(scope)
        if objection is not None:
            await self.refusal(*objection)(scope, receive, guarded_send)
        else:
            await self._app(scope, receive, guarded_send)

    # What a page may want otherwise.

    headers = HEADERS

    def refusal(self, status: int, why: str) -> App:
        """What answers a request that is not let in."""
        return _Refusal(status, why)

    def is_known(self, host: str) -> bool:
        """Whether the page may be asked for by that name; lower case, without the port."""
        return host in self._names

    def is_own(self, origin: str, scheme: str, host: str) -> bool:
        """Whether a page of that origin is this page; ``host`` as the request named it, with the port."""
        return origin == f"{scheme}://{host}"

    def wants_token(self, path: str) -> bool:
        return path.startswith(self._guarded)

    def check_token(self, scope: Message, token: str) -> tuple[int, str] | None:  # noqa: ARG002 - for others
        """What is wrong with a token, which is empty when none was sent."""
        return None if self.is_right(token) else (401, _WRONG)

    def is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("latin-1"), self._token)

    # Inside.

    def _objection(self, scope: Message) -> tuple[int, str] | None:
        """Why this request is not let in, with its status; None when it is."""
        hosts = _values(scope, b"host")
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None or not self.is_known(match[1].lower()):
            return 421, "This page is not known by that host name. Open the address that was printed."
        origins = _values(scope, b"origin")
        scheme = scope.get("scheme", "http")
        if origins and not (len(origins) == 1 and self.is_own(origins[0], scheme, hosts[0])):
            return 403, "Another origin may not ask this page for anything."
        if not self.wants_token(scope["path"]):
            return None
        if _values(scope, b"sec-fetch-site") not in ([], ["same-origin"], ["none"]):
            return 403, "Another site may not ask this page for anything."
        given = _values(scope, b"authorization")
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        return self.check_token(scope, token.strip() if kind.lower() == "bearer" else "")


def name_of(host: str) -> str:
    """An address as it stands in a ``Host`` header: IPv6 in brackets."""
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
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
