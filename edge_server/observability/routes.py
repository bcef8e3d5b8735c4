"""Routes of the operator's HTTP server for monitoring: ``/metrics``, ``/healthz`` and ``/readyz``.

Metrics require the token, like everything else about visitors. Health checks do not, because Docker, Kubernetes
and load balancers have no place to keep one.
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

MONITORING_PATHS: Final = frozenset({"/healthz", "/readyz"})
"""Paths that require no token."""


class MonitoringRoutes:
    """Handlers for a running edge."""

    def __init__(self, introspection: Introspection) -> None:
        """Check nothing yet. ``introspection``: the edge."""
        self._exposition = Exposition(introspection)
        self._health = Health(introspection)

    def routes(self) -> list[BaseRoute]:
        """Return the routes for the server's application."""
        return [
            Route("/metrics", self._metrics),
            Route("/healthz", self._alive),
            Route("/readyz", self._ready),
        ]

    async def _metrics(self, _: Request) -> Response:
        return Response(self._exposition.text(), media_type=CONTENT_TYPE)

    async def _alive(self, _: Request) -> Response:
        return _json(self._health.liveness(), 200)

    async def _ready(self, _: Request) -> Response:
        readiness = await self._health.readiness()
        return _json(readiness, 200 if readiness.ready else 503)


def _json(value: object, status: int) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
