"""The operator's HTTP application, put together: routes, what is behind them, and the guard in front.

Other rooms that show something to the operator (figures, health) add their routes in :meth:`AdminApp._others`, and
the paths of those that want no token to :data:`OPEN`.
"""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from edge_server.admin import history, openapi
from edge_server.admin.api import OPERATIONS, PREFIX, Api
from edge_server.admin.auth_middleware import AuthMiddleware
from edge_server.admin.event_stream import EventStream
from edge_server.admin.recent_errors import RecentErrors
from edge_server.admin.responses import answer, problem
from edge_server.auth.failed_attempts import FailedAttempts
from edge_server.observability.routes import FREE, Sight

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from edge_server.observability.introspection import Introspection

PAGE: Final = {
    "/": ("index.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"/{name}.js": (f"{name}.js", "text/javascript")
        for name in ("page", "charts", "confirm", "dom", "feed", "tables", "words")
    },
}
"""The page's own files, which say nothing of this edge."""
OPEN: Final = frozenset((*PAGE, openapi.PATH)) | FREE
"""What may be had without a token. Nothing in it says anything of this edge but whether it is well."""


class AdminApp:
    """See the module."""

    def __init__(
        self, scene: Introspection, *, names: Collection[str], token: str, drain: Callable[[], None]
    ) -> None:
        """``names``: by which it may be asked for; ``drain``: makes whoever runs the edge drain and stop it."""
        self._ring = RecentErrors()
        self._scene = scene
        self.api = Api(scene, self._ring, drain)
        self._feed = EventStream(self.api.snapshot)
        self._sight = Sight()
        self._sampling: asyncio.Task[None] | None = None
        self.routes = [*self._page(), *self._api(), *self._others()]
        inner = Starlette(
            routes=self.routes,
            exception_handlers={404: _refused, 405: _refused, 500: _failed},
        )
        inner.router.redirect_slashes = False
        attempts = FailedAttempts(asyncio.get_running_loop().time)
        self.app = AuthMiddleware(inner, names=names, token=token, attempts=attempts, is_open=OPEN)

    def open(self) -> None:
        """Begin to look."""
        self._ring.open()
        self._sight.open(self._scene)
        self._scene.ledger.on_end = self.api.heard.left
        self._sampling = self._scene.supervisor.keep_running(self._sample, "keeping the last hour")

    def close(self) -> None:
        """Look no more; may be said again."""
        self._feed.close()
        self._ring.shut()
        if self._sampling is not None:
            self._sampling.cancel()

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += history.EVERY
            await asyncio.sleep(due - loop.time())
            self.api.past.sample()

    # Routes.

    def _page(self) -> list[BaseRoute]:
        folder = files("edge_server.admin") / "page"
        return [
            Route(path, _file((folder / name).read_bytes(), kind), methods=["GET"])
            for path, (name, kind) in PAGE.items()
        ]

    def _api(self) -> list[BaseRoute]:
        described = bytes(answer(openapi.document()).body)
        routes: list[BaseRoute] = [Route(openapi.PATH, _file(described, "application/json"), methods=["GET"])]
        for operation in OPERATIONS:
            handler = self._feed if operation.name == "events" else self.api.handler(operation)
            routes.append(Route(PREFIX + operation.path, handler, methods=[operation.method.upper()]))
        return routes

    def _others(self) -> list[BaseRoute]:
        return self._sight.routes()


def _file(content: bytes, kind: str) -> Callable[[Request], object]:
    async def handle(_: Request) -> Response:
        return Response(content, media_type=kind)

    return handle


async def _refused(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    words = {404: "There is nothing there.", 405: "Not with this method."}
    return problem(status, {404: "not-found", 405: "wrong-method"}.get(status, "refused"), words.get(status, ""))


async def _failed(_: Request, __: Exception) -> Response:
    """A fault of ours; Starlette raises it again, and the log has it."""
    return problem(500, "fault", "The edge failed at this; its log says how.")
