"""What the operator's HTTP server has for programs that look after an edge: ``/metrics``, ``/healthz`` and
``/readyz``.

The figures need the token, as everything that says something of visitors does; whether the edge is well does not,
since those who ask (Docker, Kubernetes, load balancers) have no place to keep one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from edge_server.observability.health import Health
from edge_server.observability.prometheus import CONTENT_TYPE, Exposition

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from edge_server.observability.introspection import Introspection

FREE: Final = frozenset({"/healthz", "/readyz"})
"""Those that need no token."""


class Sight:
    """Answers from an edge's scene, which is there when it serves."""

    def __init__(self) -> None:
        self._exposition: Exposition | None = None
        self._health: Health | None = None

    def open(self, scene: Introspection) -> None:
        """It serves."""
        self._exposition = Exposition(scene)
        self._health = Health(scene)

    def routes(self) -> list[BaseRoute]:
        """For the server's application."""
        return [
            Route("/metrics", self._metrics),
            Route("/healthz", self._alive),
            Route("/readyz", self._ready),
        ]

    async def _metrics(self, _: Request) -> Response:
        assert self._exposition is not None
        return Response(self._exposition.text(), media_type=CONTENT_TYPE)

    async def _alive(self, _: Request) -> Response:
        assert self._health is not None
        return _json(self._health.life(), 200)

    async def _ready(self, _: Request) -> Response:
        assert self._health is not None
        readiness = await self._health.readiness()
        return _json(readiness, 200 if readiness.ready else 503)


def _json(value: object, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
