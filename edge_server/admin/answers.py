"""What every answer of the operator's HTTP server has in common: its headers, and how it says no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON: Final = "application/json"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Scripts and styles come from files of this server alone, and the page can make no HTML out of text (Trusted
Types), which is what keeps a hostile name from becoming code."""
SECURITY_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""With each answer."""


class Problem(msgspec.Struct, frozen=True):
    """Why a request was refused."""

    error: str
    """A word for programs."""
    message: str
    """A sentence for people."""


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Something as JSON."""
    return Response(msgspec.json.encode(value), status, headers, JSON)


def problem(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal."""
    return answer(Problem(error, message), status, headers)
