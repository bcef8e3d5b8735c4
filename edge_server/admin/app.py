"""The operator's HTTP application, put together: routes, what is behind them, and the guard in front.

Other rooms that show something to the operator (figures, health) add their routes in :meth:`Window._routes`, and
the paths of those that need no token to :data:`OPEN`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.routing import Route

from edge_server.admin.answers import answer, problem
from edge_server.admin.guard import Guard
from edge_server.rights.attempts import Attempts
from edge_server.sight.routes import FREE, Sight
from quictunnel.version import VERSION

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from edge_server.server import EdgeServer

OPEN: Final = frozenset({"/"}) | FREE
"""What may be had without a token. Nothing in it says anything of this edge but whether it is well."""


class Window:
    """See the module."""

    def __init__(self, edge: EdgeServer, token: str) -> None:
        assert edge.config.admin is not None
        self._edge = edge
        self._sight = Sight()
        inner = Starlette(routes=self._routes(), exception_handlers={404: _refused, 405: _refused, 500: _failed})
        self.app = Guard(
            inner,
            host=edge.config.admin[0],
            token=token,
            attempts=Attempts(asyncio.get_running_loop().time),
            is_open=OPEN,
        )

    def open(self) -> None:
        """Begin to look."""
        assert self._edge.scene is not None
        self._sight.open(self._edge.scene)

    async def close(self) -> None:
        """Look no more."""

    def _routes(self) -> list[BaseRoute]:
        return [Route("/api/v1/edge", self._about), *self._sight.routes()]

    async def _about(self, _: Request) -> Response:
        return answer({"version": VERSION})


async def _refused(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    words = {404: "There is nothing there.", 405: "Not with this method."}
    return problem(status, {404: "not-found", 405: "wrong-method"}.get(status, "refused"), words.get(status, ""))


async def _failed(_: Request, __: Exception) -> Response:
    """A fault of ours; Starlette raises it again, and the log has it."""
    return problem(500, "fault", "The edge failed at this; its log says how.")
