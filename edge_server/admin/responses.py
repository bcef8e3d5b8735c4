"""Responses of the operator's HTTP server: common headers, JSON and errors."""

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
"""Headers of each response."""


class ProblemDetails(msgspec.Struct, frozen=True):
    """The reason for a refusal."""

    error: Annotated[str, Meta(description="A stable identifier for programs.")]
    message: Annotated[str, Meta(description="An explanation for people.")]


def answer(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response."""
    return Response(msgspec.json.encode(value), status, headers, JSON)


def problem(status: int, error: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error response."""
    return answer(ProblemDetails(error, message), status, headers)
