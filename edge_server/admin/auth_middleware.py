"""Who may ask what of the operator's HTTP server: everything that is checked before a handler runs.

What every page for one person needs is :mod:`quictunnel.shared.web_security`'s: the host name, the origin,
headers. Besides:

- Everything that is not said to be open wants ``Authorization: Bearer TOKEN``. There is no cookie: cookies do not
  know ports, so each other server on the same host would be sent it, and a browser adds them to requests that
  other pages made it send. With a header that only this page's script adds there is nothing to forge.
- Wrong tokens are counted by address (:mod:`edge_server.auth.failed_attempts`). Whoever guesses without knowing
the key
  in the token does not lock the operator out, who may come from the same address.
- Plain addresses are good host names: DNS, which could be made to point here, has nothing to do with them.
- Requests are small.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from typing import TYPE_CHECKING, Final

from edge_server.admin.responses import HEADERS, problem
from edge_server.auth.failed_attempts import WINDOW
from edge_server.auth.token import digest_of, key_of
from quictunnel.shared.web_security import WebGuard

if TYPE_CHECKING:
    from collections.abc import Collection

    from edge_server.auth.failed_attempts import FailedAttempts
    from quictunnel.shared.web_security import App, Message

logger = logging.getLogger(__name__)

MAX_BODY: Final = 1024
"""Bytes of a request's body. No request here needs one."""
MAX_TARGET: Final = 1024
"""Bytes of a path with its query; the longest of ours has some dozens."""
MAX_TOKEN: Final = 512
"""Characters of a token that is looked at."""
MAX_HEADERS: Final = 8 * 1024
"""Bytes of all headers; a browser sends one or two thousand."""
_WORDS: Final = {
    401: "wrong-token",
    403: "other-origin",
    413: "too-large",
    414: "too-long",
    421: "wrong-host",
    429: "too-many-tries",
    431: "too-large",
}


class AuthMiddleware(WebGuard):
    """See the module."""

    headers = HEADERS

    def __init__(
        self, app: App, *, names: Collection[str], token: str, attempts: FailedAttempts, is_open: Collection[str]
    ) -> None:
        """``names``: besides those of loopback; ``is_open``: the paths that want no token."""
        super().__init__(app, token=token, names=names)
        self._digest = digest_of(token)
        self._key = key_of(token)
        self._attempts = attempts
        self._open = frozenset(is_open)

    def refusal(self, status: int, why: str) -> App:
        headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": f"{WINDOW:.0f}"}}.get(status)
        return problem(status, _WORDS[status], why, headers)

    def is_known(self, host: str) -> bool:
        if super().is_known(host):
            return True
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    def is_own(self, origin: str, scheme: str, host: str) -> bool:
        # A proxy in front may speak TLS; it is the same port, so nobody else's page.
        return super().is_own(origin, scheme, host) or origin == f"https://{host}"

    def wants_token(self, path: str) -> bool:
        return path not in self._open

    def is_right(self, token: str) -> bool:
        return 0 < len(token) <= MAX_TOKEN and hmac.compare_digest(digest_of(token), self._digest)

    def check_token(self, scope: Message, token: str) -> tuple[int, str] | None:
        address = str((scope.get("client") or ("",))[0])
        key = self._key if self._key is not None and key_of(token) == self._key else None
        if not token:
            return 401, "Show the token of STATE_DIR/admin.token: Authorization: Bearer TOKEN."
        if not self._attempts.may_try(address, key):
            return 429, "Too many wrong tokens came from this address; try again in a minute."
        if self.is_right(token):
            return None
        self._attempts.was_wrong(address, key)
        logger.warning("a wrong token for the operator's page came from %s", address)
        return super().check_token(scope, token)

    def _rejection(self, scope: Message) -> tuple[int, str] | None:
        return _too_much(scope) or super()._rejection(scope)


def _too_much(scope: Message) -> tuple[int, str] | None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET:
        return 414, f"A path has at most {MAX_TARGET} bytes."
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
        return 431, f"Headers have at most {MAX_HEADERS} bytes."
    headers = {name.lower(): value for name, value in scope["headers"]}
    length = headers.get(b"content-length", b"0")
    is_told = b"transfer-encoding" not in headers and length.isdigit() and len(length) < 10
    if not is_told or int(length) > MAX_BODY:
        return 413, f"A request has a body of at most {MAX_BODY} bytes, and says so before."
    return None
