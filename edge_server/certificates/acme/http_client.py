"""The HTTP below an ACME client, with bounds: on sizes, on time, on redirects; and what it was told to wait.

The ``acme`` library speaks through ``requests``, which reads whatever comes for as long as it comes.
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

from edge_server.certificates.acme.errors import AcmeError, said
from quictunnel.version import SOFTWARE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import requests
    from josepy.jwk import JWK

MAX_ANSWER: Final = 1024 * 1024
"""Bytes of one answer; chains of certificates have 10 KiB."""
MAX_REDIRECTS: Final = 3
MAX_NONCES: Final = 4
"""Tries with a fresh nonce; servers forget them in a restart, and pebble refuses one in twenty on purpose."""
MAX_RETRY_AFTER: Final = 7 * 86_400.0
"""Seconds: the longest of the periods in which Let's Encrypt counts. Whoever says more is not believed."""
CHUNK: Final = 64 * 1024

# It logs whole dialogues at the level of debugging.
logging.getLogger("acme").setLevel(logging.INFO)


class Network(client.ClientNetwork):
    """One server's. ``now`` is the time of day, for ``Retry-After`` with a date."""

    def __init__(
        self,
        key: JWK,
        *,
        timeout: float,
        ca: Path | None,
        check: Callable[[], None],
    ) -> None:
        """``timeout``: seconds for one request as a whole; ``check`` is called before each and may raise."""
        super().__init__(key, alg=ES256, user_agent=SOFTWARE, timeout=max(1, int(timeout)))
        self._check = check
        self.retry_after = 0.0
        """Seconds, as the last answer that was a refusal said; 0 when it said none."""
        adapter = _Adapter(timeout, ca)
        self.session.mount("https://", adapter)
        # A directory is asked for over TLS; that it leads elsewhere from there would be a mistake.
        self.session.mount("http://", _Forbidden())
        self.session.max_redirects = MAX_REDIRECTS

    def close(self) -> None:
        self.session.close()

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        for _ in range(MAX_NONCES - 1):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
        return super().post(*args, **kwargs)

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        self._check()
        self.retry_after = 0.0
        answer = super()._send_request(method, url, *args, **kwargs)
        if not answer.ok:
            self.retry_after = seconds_of(answer.headers.get("Retry-After", ""), _now_at(answer))
        return answer


def _now_at(answer: requests.Response) -> float:
    """The server's clock, by which a date in its answer is meant; ours where it does not say."""
    try:
        return parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except (KeyError, ValueError, TypeError, OverflowError):
        return time.time()


def seconds_of(retry_after: str, now: float) -> float:
    """What a ``Retry-After`` says (RFC 9110 section 10.2.3), in seconds; 0 for nothing and for nonsense."""
    if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 12:
        seconds = float(retry_after)
    else:
        try:
            seconds = parsedate_to_datetime(retry_after).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            seconds = 0.0
    return min(max(0.0, seconds), MAX_RETRY_AFTER)


class _Adapter(HTTPAdapter):
    """Reads an answer within its bounds, and then lets ``requests`` see it."""

    def __init__(self, timeout: float, ca: Path | None) -> None:
        super().__init__()
        self._timeout = timeout
        self._ca = ca

    def send(self, request: requests.PreparedRequest, *_: Any, **options: Any) -> requests.Response:
        deadline = time.monotonic() + self._timeout
        options |= {"stream": True, "timeout": self._timeout}
        if self._ca is not None:
            options["verify"] = str(self._ca)
        answer = super().send(request, **options)
        try:
            body = self._read(answer, deadline)
        except urllib3.exceptions.HTTPError as error:  # which requests would translate if it read by itself
            raise AcmeError(f"The ACME server broke its answer off: {said(error)}.") from None
        finally:
            answer.raw.close()
        # From here on it is read again, without a network.
        answer.raw = cast("Any", io.BytesIO(body))
        return answer

    def _read(self, answer: requests.Response, deadline: float) -> bytes:
        body = bytearray()
        while chunk := answer.raw.read1(CHUNK, decode_content=True):
            body += chunk
            if len(body) > MAX_ANSWER:
                raise AcmeError(f"The ACME server answers with more than {MAX_ANSWER} bytes.")
            if time.monotonic() > deadline:
                raise AcmeError(f"The ACME server took longer than {self._timeout:g} s to answer.")
        return bytes(body)


class _Forbidden(HTTPAdapter):
    def send(self, *_: Any, **__: Any) -> requests.Response:
        raise AcmeError("The ACME server wants to be asked without TLS.")
