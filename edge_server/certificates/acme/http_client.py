"""The HTTP client for ACME, with bounds on size, time and redirects, and with the server's Retry-After.

The ``acme`` library uses ``requests``, which reads any amount of data for any time.
"""

from __future__ import annotations

import io
import logging
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, cast

import urllib3.exceptions
from acme import client, messages
from josepy.jwa import ES256
from requests.adapters import HTTPAdapter

from edge_server.certificates.acme.errors import AcmeError, printable
from quictunnel.shared.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import requests
    from josepy.jwk import JWK

MAX_RESPONSE: Final = 1024 * 1024
"""Bytes of one response; certificate chains have 10 KiB."""
MAX_REDIRECTS: Final = 3
"""Redirects to follow for one request."""
MAX_NONCE_TRIES: Final = 4
"""Tries with a new nonce: servers lose nonces in a restart, and pebble rejects one in twenty on purpose."""
MAX_RETRY_AFTER: Final = 7 * 86_400.0
"""Seconds: the longest rate limit period of Let's Encrypt. A larger value is not accepted."""
CHUNK_SIZE: Final = 64 * 1024
"""Bytes read at a time."""

# At level DEBUG it logs whole requests and responses.
logging.getLogger("acme").setLevel(logging.INFO)


class AcmeHttpClient(client.ClientNetwork):
    """The connections to one ACME server."""

    def __init__(
        self,
        key: JWK,
        *,
        timeout: float,
        ca: Path | None,
        check: Callable[[], None],
    ) -> None:
        """Prepare a session.

        Args:
            key: of the account.
            timeout: seconds for one request as a whole.
            ca: PEM file of the CA that signs the server's certificate; None: the system's.
            check: called before each request; may raise to abort.
        """
        super().__init__(key, alg=ES256, user_agent=SOFTWARE, timeout=max(1, int(timeout)))
        self._check = check
        self.retry_after = 0.0
        """Seconds from the Retry-After of the last refusal; 0 without one."""
        adapter = _Adapter(timeout, ca)
        self.session.mount("https://", adapter)
        # The directory is fetched over TLS; a link from there to plain HTTP would be an error.
        self.session.mount("http://", _PlainHttpAdapter())
        self.session.max_redirects = MAX_REDIRECTS

    def close(self) -> None:
        """Close the session."""
        self.session.close()

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a signed request, again with a new nonce if the server rejects the old one."""
        for _ in range(MAX_NONCE_TRIES - 1):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*args, **kwargs)

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        self._check()
        self.retry_after = 0.0
        response = super()._send_request(method, url, *args, **kwargs)
        if not response.ok:
            self.retry_after = parse_retry_after(response.headers.get("Retry-After", ""), _server_time(response))
        return response


def _server_time(response: requests.Response) -> float:
    """Return the server's clock from its Date header, to which a date in Retry-After refers; ours without one."""
    try:
        return parsedate_to_datetime(response.headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return time.time()


def parse_retry_after(retry_after: str, now: float) -> float:
    """Return the value of ``Retry-After`` (RFC 9110 section 10.2.3) in seconds; 0 if it is missing or invalid."""
    if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 12:
        seconds = float(retry_after)
    else:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            seconds = 0.0
    return min(max(0.0, seconds), MAX_RETRY_AFTER)


class _Adapter(HTTPAdapter):
    """Reads a response within the bounds before ``requests`` sees it."""

    def __init__(self, timeout: float, ca: Path | None) -> None:
        super().__init__()
        self._timeout = timeout
        self._ca = ca

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        """Send a request and read the whole response. Raises AcmeError beyond the bounds."""
        deadline = time.monotonic() + self._timeout
        options |= {"stream": True, "timeout": self._timeout}
        if self._ca is not None:
            options["verify"] = str(self._ca)
        response = super().send(request, **options)
        try:
            body = self._read(response, deadline)
        except urllib3.exceptions.HTTPError as error:  # requests would translate it if it read the body itself
            raise AcmeError(
                f"The ACME server closed the connection within a response: {printable(error)}."
            ) from None
        finally:
            response.raw.close()
        # requests reads the body again from memory.
        response.raw = cast("Any", io.BytesIO(body))
        return response

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        body = bytearray()
        while chunk := response.raw.read1(CHUNK_SIZE, decode_content=True):
            body += chunk
            if len(body) > MAX_RESPONSE:
                raise AcmeError(f"The ACME server sent a response of more than {MAX_RESPONSE} bytes.")
            if time.monotonic() > deadline:
                raise AcmeError(f"The ACME server took longer than {self._timeout:g} s to respond.")
        return bytes(body)


class _PlainHttpAdapter(HTTPAdapter):
    """Rejects requests without TLS."""

    def send(self, *_: Any, **__: Any) -> requests.Response:
        """Raise AcmeError."""
        raise AcmeError("The ACME server refers to a URL without TLS.")
