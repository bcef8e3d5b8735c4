"""Checks of the operator's HTTP server before a handler runs.

:mod:`quictunnel.shared.web_security` does those that every local page needs: host name, origin, headers. In
addition:

- All paths that are not open require ``Authorization: Bearer TOKEN``. There is no cookie: cookies ignore ports, so
  each other server on the same host would receive it, and a browser adds them to requests that other pages
  trigger. Only this page's script adds the header, so requests cannot be forged.
- Wrong tokens are counted by address (:mod:`edge_server.auth.failed_attempts`). A guesser who does not know the
  key in the token does not lock out an operator at the same address.
- Plain addresses are valid host names: DNS rebinding does not apply to them.
- Requests are small.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from typing import TYPE_CHECKING, Final

from edge_server.admin.responses import HEADERS, problem
from edge_server.auth.failed_attempts import WINDOW_SECONDS
from edge_server.auth.token import digest_of, key_of
from quictunnel.shared.web_security import WebGuard

if TYPE_CHECKING:
    from collections.abc import Collection

    from edge_server.auth.failed_attempts import FailedAttempts
    from quictunnel.shared.web_security import App, Message

logger = logging.getLogger(__name__)

MAX_BODY: Final = 16 * 1024
"""Bytes of a request's body. The largest one has the rights of a token, with up to 8000 characters of names."""
MAX_TARGET: Final = 1024
"""Bytes of a path with its query; the longest of ours has a few dozen."""
MAX_TOKEN: Final = 512
"""Characters of a token that is checked."""
MAX_HEADERS: Final = 8 * 1024
"""Bytes of all headers; a browser sends one or two thousand."""
_ERROR_CODES: Final = {
    401: "wrong-token",
    403: "other-origin",
    413: "too-large",
    414: "too-long",
    421: "wrong-host",
    429: "too-many-tries",
    431: "too-large",
}


class AuthMiddleware(WebGuard):
    """The checks, as ASGI middleware."""

    headers = HEADERS

    def __init__(
        self, app: App, *, names: Collection[str], token: str, attempts: FailedAttempts, is_open: Collection[str]
    ) -> None:
        """Wrap ``app``.

        Args:
            app: the application.
            names: host names besides those of loopback.
            token: of the operator.
            attempts: counts wrong tokens.
            is_open: paths without a token.
        """
        super().__init__(app, token=token, names=names)
        self._digest = digest_of(token)
        self._key = key_of(token)
        self._attempts = attempts
        self._open = frozenset(is_open)

    def refusal(self, status: int, why: str) -> App:
        """Return the response for a failed check."""
        headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": f"{WINDOW_SECONDS:.0f}"}}.get(status)
        return problem(status, _ERROR_CODES[status], why, headers)

    def is_known(self, host: str) -> bool:
        """Return True if the server may be addressed by this host."""
        if super().is_known(host):
            return True
        try:
            ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True

    def is_own(self, origin_header: str, scheme: str, host: str) -> bool:
        """Return True if the request comes from this server's own page."""
        # A proxy in front may add TLS; host and port are the same, so it is this server's page.
        return super().is_own(origin_header, scheme, host) or origin_header == f"https://{host}"

    def wants_token(self, path: str) -> bool:
        """Return True if this path requires the token."""
        return path not in self._open

    def is_valid(self, token: str) -> bool:
        """Return True if the token is correct, in constant time."""
        return 0 < len(token) <= MAX_TOKEN and hmac.compare_digest(digest_of(token), self._digest)

    def check_token(self, scope: Message, token: str) -> tuple[int, str] | None:
        """Return status and message of a refusal, or None. Counts and logs wrong tokens."""
        address = str((scope.get("client") or ("",))[0])
        key = self._key if self._key is not None and key_of(token) == self._key else None
        if not token:
            return 401, "The token of STATE_DIR/admin.token is required: Authorization: Bearer TOKEN."
        if not self._attempts.can_try(address, key):
            return 429, "Too many wrong tokens from this address; try again in a minute."
        if self.is_valid(token):
            return None
        self._attempts.record_failure(address, key)
        logger.warning("wrong token for the operator's page from %s", address)
        return super().check_token(scope, token)

    def _rejection(self, scope: Message) -> tuple[int, str] | None:
        return _size_error(scope) or super()._rejection(scope)


def _size_error(scope: Message) -> tuple[int, str] | None:
    if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET:
        return 414, f"The path may have at most {MAX_TARGET} bytes."
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
        return 431, f"The headers may have at most {MAX_HEADERS} bytes."
    headers = {name.lower(): value for name, value in scope["headers"]}
    length = headers.get(b"content-length", b"0")
    has_length = b"transfer-encoding" not in headers and length.isdigit() and len(length) < 10
    if not has_length or int(length) > MAX_BODY:
        return 413, f"The body may have at most {MAX_BODY} bytes, with a Content-Length."
    return None
