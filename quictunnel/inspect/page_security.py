"""Security headers of the inspector's page: as of any local page, and images of strangers besides."""

from __future__ import annotations

import re
from typing import Final

from quictunnel.shared.web_security import HEADERS, WebGuard

_POLICY: Final = b"content-security-policy"
_IMAGE_PATH: Final = re.compile(r"/api/exchanges/[0-9]+/(request|response)/image")

PAGE_HEADERS: Final = tuple(
    (name, value.replace(b"img-src 'self'", b"img-src 'self' blob:") if name == _POLICY else value)
    for name, value in HEADERS
)
"""Headers of the page. It shows an image from a blob that it has fetched with its token, because an image element
sends none."""
IMAGE_HEADERS: Final = (
    (_POLICY, b"default-src 'none'; sandbox; frame-ancestors 'none'"),
    (b"content-disposition", b"attachment"),
    *((name, value) for name, value in HEADERS if name != _POLICY),
)
"""Headers of an image, which a stranger has made. If a browser opened it as a document, which the token prevents,
the document would have no scripts and no origin."""


class InspectorGuard(WebGuard):
    """Guard of the inspector's page."""

    headers = PAGE_HEADERS

    def headers_of(self, path: str) -> tuple[tuple[bytes, bytes], ...]:
        """Return the headers of the responses at a path."""
        return IMAGE_HEADERS if _IMAGE_PATH.fullmatch(path) else self.headers
