"""Handlers of the operator's JSON API (:mod:`edge_server.admin.operations`)."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

from edge_server.admin import history, models
from edge_server.admin.actions import Actions, RefusedError
from edge_server.admin.lists import ListQuery, Page
from edge_server.admin.management import Management
from edge_server.admin.operations import SNAPSHOT_TALKERS, Snapshot
from edge_server.admin.requests import RequestError, list_query, parse_body, parse_query
from edge_server.admin.responses import answer, problem
from edge_server.admin.tunnel_detail import TunnelHistory
from edge_server.admin.visit_history import VisitHistory
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from edge_server.admin.history import Past, Talkers
    from edge_server.admin.operations import Operation
    from edge_server.admin.recent_errors import Errors, RecentErrors
    from edge_server.admin.state_types import Certificate, Edge, Session, Tunnel, Visitor
    from edge_server.admin.tunnel_detail import TunnelDetail
    from edge_server.admin.visit_history import Visit
    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.visitor_log import EndReason, VisitorConnection

SNAPSHOT_ENTRIES: Final = 50
"""Entries of each list in a snapshot; the list operations return all."""
TALKERS_CACHE_TIME: Final = 5.0
"""Seconds for which snapshots reuse the talkers."""
_BEGINNING: Final = ListQuery(limit=SNAPSHOT_ENTRIES)


class Api:
    """Handlers of the operations. Methods without ``async`` run on the event loop's thread and never wait."""

    def __init__(
        self, introspection: Introspection, recent_errors: RecentErrors, drain: Callable[[], None]
    ) -> None:
        """Read the state of ``introspection``; ``drain`` makes the owner of the edge drain and stop it."""
        self._models = models.ReadModels(introspection)
        self._introspection = introspection
        self._recent_errors = recent_errors
        self.samples = history.History(introspection.visitor_log)
        self.tunnel_samples = TunnelHistory()
        self.top_talkers = history.TopTalkers(introspection.visitor_log)
        self.visit_history = VisitHistory(introspection.visitor_log, self._models.owner_name)
        self._actions = Actions(introspection, drain)
        directory = introspection.config.state_dir
        self.management = Management(
            directory, introspection.name_directory, self._models.owner_name, introspection.config.domain
        )
        self._talkers: tuple[float, Talkers] | None = None

    def handler(self, operation: Operation) -> Callable[[Request], Any]:
        """Return Starlette's handler of an operation."""
        run = self._method(operation.name)

        async def handle(request: Request) -> Response:
            try:
                done = run(**await _arguments(operation, request))
                if inspect.isawaitable(done):
                    done = await done
            except RequestError as wrong:
                return problem(400, wrong.error, str(wrong))
            except RefusedError as refused:
                return problem(409, "refused", str(refused))
            except ConfigError as error:
                return problem(503, "no-database", str(error))
            if done is None:
                return problem(404, "not-found", "No such object exists (any more).")
            return answer(done)

        return handle

    def _method(self, name: str) -> Callable[..., Any]:
        """Return the method that carries out an operation."""
        owner = next(each for each in (self, self.management, self._actions) if hasattr(each, name))
        method: Callable[..., Any] = getattr(owner, name)
        return method

    def sample(self) -> None:
        """Add a sample to the history of the edge and of each tunnel."""
        self.samples.sample()
        self.tunnel_samples.sample(self._introspection.registry, self._models.measure())

    def on_visitor_end(self, visit: VisitorConnection, duration: float, ending: EndReason) -> None:
        """Record a visitor that has ended (``VisitorLog.on_end``)."""
        self.top_talkers.on_visitor_end(visit)
        self.visit_history.add(visit, duration, ending)

    # Operations.

    def edge(self) -> Edge:
        """Return the state of the edge as a whole."""
        return self._models.edge()

    def sessions(self, only: str, **query: Any) -> Page[Session]:
        """Return a page of the sessions."""
        return self._models.sessions(list_query(query), only=only)

    def tunnels(self, only: str, **query: Any) -> Page[Tunnel]:
        """Return a page of the tunnels."""
        return self._models.tunnels(list_query(query), only=only)

    async def tunnel(self, target: str) -> TunnelDetail | None:
        """Return what is known of one tunnel."""
        return await self.management.tunnel(
            target, self._models, self.tunnel_samples, self.visit_history, self._recent_errors
        )

    def visitors(self, only: str, **query: Any) -> Page[Visitor]:
        """Return a page of the visitors."""
        return self._models.visitors(list_query(query), only=only)

    def visits(self, tunnel: str, only: str, **query: Any) -> Page[Visit]:
        """Return a page of the visitors that have left."""
        return self.visit_history.page(list_query(query), tunnel=tunnel, is_failure=bool(only))

    def certificates(self, **query: Any) -> Page[Certificate]:
        """Return a page of the certificates."""
        return self._models.certificates(list_query(query))

    def history(self) -> Past:
        """Return the samples of the last hour."""
        return self.samples.past()

    def talkers(self, limit: int) -> Talkers:
        """Return the addresses and tunnels with the most traffic."""
        return self.top_talkers.top(limit)

    def errors(self, limit: int) -> Errors:
        """Return the latest warnings and errors."""
        return self._recent_errors.recent(limit)

    def snapshot(self) -> Snapshot:
        """Return the state at this moment."""
        return Snapshot(
            at=self._models.now(),
            edge=self._models.edge(),
            sessions=self._models.sessions(_BEGINNING),
            tunnels=self._models.tunnels(_BEGINNING),
            visitors=self._models.visitors(_BEGINNING),
            certificates=self._models.certificates(_BEGINNING),
            talkers=self._recent_talkers(),
            errors=self._recent_errors.recent(SNAPSHOT_ENTRIES),
            sample=self.samples.last,
        )

    def _recent_talkers(self) -> Talkers:
        """Return talkers from a few seconds ago: with ten thousand visitors they are the most expensive part of a
        snapshot."""
        now = self._models.now()
        if self._talkers is None or not 0 <= now - self._talkers[0] < TALKERS_CACHE_TIME:
            self._talkers = now, self.top_talkers.top(SNAPSHOT_TALKERS)
        return self._talkers[1]


async def _arguments(operation: Operation, request: Request) -> dict[str, Any]:
    """Return the arguments of the method of an operation. Raises RequestError."""
    arguments: dict[str, Any] = dict(parse_query(operation, request))
    if "{id}" in operation.path:
        arguments["target"] = request.path_params["id"]
    if operation.method != "get":
        arguments["who"] = request.client.host if request.client is not None else "unknown"
    if operation.body is not None:
        arguments["body"] = await parse_body(operation, request)
    return arguments
