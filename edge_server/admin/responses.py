"""What every answer of the operator's HTTP server has in common: its headers, and how it says no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from quictunnel.shared import web_security

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON: Final = "application/json"
HEADERS: Final = (
    *web_security.HEADERS,
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
"""With each answer."""


class ProblemDetails(msgspec.Struct, frozen=True):
    """Why a request was refused."""

    error: Annotated[str, Meta(description="A word for programs.")]
    message: Annotated[str, Meta(description="A sentence for people.")]


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Something as JSON."""
    return Response(msgspec.json.encode(value), status, headers, JSON)


def problem(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """A refusal."""
    return answer(ProblemDetails(error, message), status, headers)
