"""The operator's HTTP application: routes, their handlers, and the authentication in front.

Other folders with pages for the operator (metrics, health) add their routes in :meth:`AdminApp._others`, and paths
without a token to :data:`OPEN_PATHS`.
"""

from __future__ import annotations

import asyncio
import contextlib
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from edge_server.admin import history, openapi
from edge_server.admin.api import Api
from edge_server.admin.auth_middleware import AuthMiddleware
from edge_server.admin.event_stream import EventStream
from edge_server.admin.operations import OPERATIONS, PREFIX
from edge_server.admin.recent_errors import RecentErrors
from edge_server.admin.responses import answer, problem
from edge_server.auth.failed_attempts import FailedAttempts
from edge_server.observability.routes import MONITORING_PATHS, MonitoringRoutes

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from edge_server.observability.introspection import Introspection

SCRIPTS: Final = (
    "attention", "charts", "columns", "confirm", "dom", "errors", "feed", "format", "hold", "list", "names",
    "overview", "page", "sessions", "tables", "tokens", "tunnel", "visits",
)  # fmt: skip
"""Modules of the page."""
PAGE_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/views.css": ("views.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS},
}
"""Static files of the page, which contain nothing of this edge."""
OPEN_PATHS: Final = frozenset((*PAGE_FILES, openapi.PATH)) | MONITORING_PATHS
"""Paths without a token. They reveal nothing about this edge except its health."""


class AdminApp:
    """The ASGI application of one edge."""

    def __init__(
        self, introspection: Introspection, *, names: Collection[str], token: str, drain: Callable[[], None]
    ) -> None:
        """Build the routes.

        Args:
            introspection: the edge.
            names: host names by which the server may be addressed.
            token: of the operator.
            drain: makes the owner of the edge drain and stop it.
        """
        self._recent_errors = RecentErrors(introspection.tokens.name_of_owner)
        self._introspection = introspection
        self.api = Api(introspection, self._recent_errors, drain)
        self._events = EventStream(self.api.snapshot)
        self._monitoring = MonitoringRoutes(introspection)
        self._collecting = contextlib.ExitStack()
        """Ends what :meth:`open` started."""
        self.routes = [*self._page(), *self._api(), *self._others()]
        inner = Starlette(
            routes=self.routes,
            exception_handlers={404: _http_error, 405: _http_error, 500: _internal_error},
        )
        inner.router.redirect_slashes = False
        attempts = FailedAttempts(asyncio.get_running_loop().time)
        self.app = AuthMiddleware(inner, names=names, token=token, attempts=attempts, is_open=OPEN_PATHS)

    def open(self) -> None:
        """Start to collect errors and history."""
        self._recent_errors.open()
        self._collecting.callback(self._recent_errors.shut)
        self._introspection.visitor_log.on_end = self.api.on_visitor_end
        sampling = self._introspection.supervisor.keep_running(self._sample, "admin history")
        self._collecting.callback(sampling.cancel)

    def close(self) -> None:
        """Stop collecting. Calling it again has no effect."""
        self._events.close()
        self._collecting.close()
        self.api.management.close()

    async def wait_closed(self) -> None:
        """Stop collecting, and wait for changes that were requested."""
        self.close()
        await self.api.management.wait_closed()

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += history.SAMPLE_INTERVAL
            await asyncio.sleep(due - loop.time())
            self.api.sample()

    # Routes.

    def _page(self) -> list[BaseRoute]:
        folder = files("edge_server.admin") / "page"
        return [
            Route(path, _file((folder / name).read_bytes(), kind), methods=["GET"])
            for path, (name, kind) in PAGE_FILES.items()
        ]

    def _api(self) -> list[BaseRoute]:
        described = bytes(answer(openapi.document()).body)
        routes: list[BaseRoute] = [Route(openapi.PATH, _file(described, "application/json"), methods=["GET"])]
        for operation in OPERATIONS:
            handler = self._events if operation.name == "events" else self.api.handler(operation)
            routes.append(Route(PREFIX + operation.path, handler, methods=[operation.method.upper()]))
        return routes

    def _others(self) -> list[BaseRoute]:
        return self._monitoring.routes()


def _file(content: bytes, kind: str) -> Callable[[Request], object]:
    async def handle(_: Request) -> Response:
        return Response(content, media_type=kind)

    return handle


async def _http_error(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    words = {404: "No such resource.", 405: "Method not allowed."}
    return problem(status, {404: "not-found", 405: "wrong-method"}.get(status, "refused"), words.get(status, ""))


async def _internal_error(_: Request, __: Exception) -> Response:
    """Return a response for an internal error; Starlette raises it again, and it is logged."""
    return problem(500, "fault", "Internal error; the edge's log has the details.")
