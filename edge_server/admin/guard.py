"""Who may ask what of the operator's HTTP server: everything that is checked before a handler runs (pure ASGI).

- ``Host`` has to be a name that cannot be pointed here by somebody else's DNS: loopback's, that of ``--admin``, or
  a plain address. A page of ``evil.example`` that resolves to 127.0.0.1 is refused (DNS rebinding).
- The API is for this page alone: a request that a browser says comes from another origin is refused
  (``Origin``, ``Sec-Fetch-Site``). No CORS header is ever sent.
- Everything that is not in :data:`OPEN` needs ``Authorization: Bearer TOKEN``. There is no cookie: cookies do not
  know ports, so each other server on the same host would be sent it, and a browser adds them to requests that
  other pages made it send. So there is nothing to forge a request with.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from typing import TYPE_CHECKING, Any, Final

from edge_server.admin.answers import SECURITY_HEADERS, problem
from edge_server.rights.attempts import WINDOW
from edge_server.rights.token import digest_of, key_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    from edge_server.rights.attempts import Attempts

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger(__name__)

API: Final = "/api/"
MAX_BODY: Final = 1024
"""Bytes of a request's body. No request here needs one."""
MAX_TARGET: Final = 1024
"""Bytes of a path with its query; the longest of ours has some dozens."""
MAX_TOKEN: Final = 512
CHALLENGE: Final = {"www-authenticate": "Bearer"}
LOCAL: Final = frozenset({"localhost", "localhost."})


class Guard:
    """See the module."""

    def __init__(self, app: App, *, host: str, token: str, attempts: Attempts, is_open: Iterable[str]) -> None:
        """``host``: of ``--admin``; ``is_open``: the paths that need no token."""
        self._app = app
        self._hosts = LOCAL | {host.lower()}
        self._digest = digest_of(token)
        self._key = key_of(token)
        self._attempts = attempts
        self._open = frozenset(is_open)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        refusal = self._objection(scope, headers)
        if refusal is None:
            refusal = self._unauthorised(scope, headers)

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in SECURITY_HEADERS if header[0] not in present),
                ]
            await send(message)

        await (refusal or self._app)(scope, receive, hardened)

    def _objection(self, scope: MutableMapping[str, Any], headers: dict[bytes, list[bytes]]) -> App | None:
        """What is wrong with a request, whoever sent it."""
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or not self._is_here(hosts[0]):
            return problem(421, "wrong-host", "This is not the address of --admin.")
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET:
            return problem(414, "too-long", f"A path has at most {MAX_TARGET} bytes.")
        length = b"".join(headers.get(b"content-length", [b"0"]))
        if (
            b"transfer-encoding" in headers
            or not length.isdigit()
            or int(length[:9]) > MAX_BODY
            or len(length) > 9
        ):
            return problem(413, "too-large", f"A request has a body of at most {MAX_BODY} bytes, its length said.")
        if scope["path"].startswith(API) and not _is_same_origin(hosts[0], headers):
            return problem(403, "other-origin", "Another site asked for this.")
        return None

    def _is_here(self, value: bytes) -> bool:
        host = value.decode("latin-1").lower()
        name, separator, port = host.rpartition(":")
        if separator and (port.isdigit() or not port):
            host = name
        if host in self._hosts or host.endswith(".localhost"):
            return True
        try:
            # An address cannot be somebody's name for this machine, as DNS has nothing to do with it.
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    def _unauthorised(self, scope: MutableMapping[str, Any], headers: dict[bytes, list[bytes]]) -> App | None:
        if scope["path"] in self._open:
            return None
        given = headers.get(b"authorization", [])
        if len(given) != 1:
            return problem(401, "no-token", "Show the token: Authorization: Bearer TOKEN.", CHALLENGE)
        kind, _, value = given[0].decode("latin-1").partition(" ")
        token = value.strip()
        address = (scope.get("client") or ("",))[0]
        # Whoever guesses without knowing the key does not lock the operator out from the same address.
        key = self._key if self._key is not None and key_of(token) == self._key else None
        if not self._attempts.may_try(address, key):
            return problem(
                429, "too-many-tries", "Too many wrong tokens from this address.", {"retry-after": f"{WINDOW:.0f}"}
            )
        if (
            kind.lower() == "bearer"
            and 0 < len(token) <= MAX_TOKEN
            and hmac.compare_digest(digest_of(token), self._digest)
        ):
            return None
        self._attempts.was_wrong(address, key)
        logger.warning("a wrong token for the operator's page came from %s", address)
        return problem(401, "wrong-token", "This is not the token in STATE_DIR/admin.token.", CHALLENGE)


def _headers(scope: MutableMapping[str, Any]) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.lower(), []).append(value)
    return found


def _is_same_origin(host: bytes, headers: dict[bytes, list[bytes]]) -> bool:
    """Whether a browser, if it is one, says that this server's own page asks. A proxy in front may speak TLS."""
    site = headers.get(b"sec-fetch-site", [b"none"])
    if any(value not in (b"same-origin", b"none") for value in site):
        return False
    origins = headers.get(b"origin", [])
    return all(value in (b"http://" + host, b"https://" + host) for value in origins)
