"""The operator's JSON API as one table of operations, from which the routes and the OpenAPI description are
built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from edge_server.admin import history, models
from edge_server.admin.actions import Actions, Done, RefusedError, Traced
from edge_server.admin.history import Past, Talkers
from edge_server.admin.recent_errors import MAX_RECORDS, Errors, RecentErrors
from edge_server.admin.responses import answer, problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from edge_server.observability.introspection import Introspection

PREFIX: Final = "/api/v1"
"""Path prefix of all operations."""
SNAPSHOT_ENTRIES: Final = 50
"""Entries of each list in a snapshot; the list operations return all."""
SNAPSHOT_TALKERS: Final = 10
"""Talkers of each kind in a snapshot."""
TALKERS_CACHE_TIME: Final = 5.0
"""Seconds for which snapshots reuse the talkers."""
DEFAULT_LIMIT: Final = 100
"""Entries of a list without the parameter ``limit``."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state at one moment, with the beginning of each list."""

    at: models.Timestamp
    edge: models.Edge
    sessions: models.Page[models.Session]
    tunnels: models.Page[models.Tunnel]
    visitors: models.Page[models.Visitor]
    certificates: models.Page[models.Certificate]
    talkers: Talkers
    errors: Errors
    sample: Annotated[history.Sample | None, Meta(description="The latest sample of the history.")]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter."""

    name: str
    description: str
    most: int = 0
    """Largest value; 0: the parameter is text."""
    default: int = 0


LIMIT_PARAMETER: Final = Parameter("limit", "Maximum number of entries.", models.MAX_PAGE, DEFAULT_LIMIT)
AFTER_PARAMETER: Final = Parameter(
    "after", "Start after this entry: the value of ``next`` in the previous response."
)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the API."""

    method: Literal["get", "post", "delete"]
    path: str
    """Path below :data:`PREFIX`, with ``{id}`` for an object."""
    name: str
    """Method of :class:`Api` or :class:`Actions`, and operationId."""
    summary: str
    answers: Any
    """Type of the response."""
    parameters: tuple[Parameter, ...] = ()
    media: str = "application/json"
    refusal: str = ""
    """Description of a refusal although the target exists (409)."""


def _filter(what: str) -> Parameter:
    return Parameter("only", f"Only entries of this {what}.")


OPERATIONS: Final = (
    Operation("get", "/edge", "edge", "The edge as a whole", models.Edge),
    Operation(
        "get", "/sessions", "sessions", "Clients and their links, the oldest first", models.Page[models.Session],
        (LIMIT_PARAMETER, AFTER_PARAMETER, _filter("owner")),
    ),
    Operation(
        "get", "/tunnels", "tunnels", "Tunnels, sorted by name", models.Page[models.Tunnel],
        (LIMIT_PARAMETER, AFTER_PARAMETER, _filter("owner")),
    ),
    Operation(
        "get", "/visitors", "visitors", "Active visitors, the newest first", models.Page[models.Visitor],
        (LIMIT_PARAMETER, AFTER_PARAMETER, _filter("tunnel")),
    ),
    Operation(
        "get", "/certificates", "certificates", "Certificates for visitors, and the status of those from ACME",
        models.Page[models.Certificate], (LIMIT_PARAMETER, AFTER_PARAMETER),
    ),
    Operation("get", "/history", "history", "The last hour in samples of ten seconds", Past),
    Operation(
        "get", "/talkers", "talkers", "Addresses and tunnels with the most traffic", Talkers,
        (Parameter("limit", "Maximum number of each kind.", history.MAX_TOP, SNAPSHOT_TALKERS),),
    ),
    Operation(
        "get", "/errors", "errors", "Warnings and errors of the log, the newest first", Errors,
        (Parameter("limit", "Maximum number of entries.", MAX_RECORDS, MAX_RECORDS),),
    ),
    Operation("get", "/snapshot", "snapshot", "All of the state, with the beginning of each list", Snapshot),
    Operation(
        "get", "/events", "events", "Snapshots, one a second, as server-sent events of the type `snapshot`",
        Snapshot, media="text/event-stream",
    ),
    Operation("post", "/drain", "drain", "Stop accepting connections, and end after the last visitor", Done),
    Operation("post", "/sessions/{id}/end", "end_session", "End a session with its tunnels and visitors", Done),
    Operation(
        "post", "/sessions/{id}/qlog", "trace_session", "Trace the connection of a session to a file",
        Traced, refusal="No file can be created; the message has the reason.",
    ),
    Operation("delete", "/sessions/{id}/qlog", "end_trace", "Stop tracing a session", Traced),
    Operation("post", "/tunnels/{id}/close", "close_tunnel", "End a tunnel, by name, with its visitors", Done),
    Operation("post", "/visitors/{id}/end", "end_visitor", "Reset a visitor's connection", Done),
)  # fmt: skip
"""All operations. Any other path or method does not exist."""


class ParameterError(Exception):
    """A query parameter is invalid; the message describes valid values."""


class Api:
    """Handlers of the operations. Every method runs on the event loop's thread and never waits."""

    def __init__(
        self, introspection: Introspection, recent_errors: RecentErrors, drain: Callable[[], None]
    ) -> None:
        """Read the state of ``introspection``; ``drain`` makes the owner of the edge drain and stop it."""
        self._models = models.ReadModels(introspection)
        self._introspection = introspection
        self._recent_errors = recent_errors
        self.samples = history.History(introspection.visitor_log)
        self.top_talkers = history.TopTalkers(introspection.visitor_log)
        self._actions = Actions(introspection, drain)
        self._talkers: tuple[float, Talkers] | None = None

    def handler(self, operation: Operation) -> Callable[[Request], Any]:
        """Return Starlette's handler of an operation."""
        action = getattr(self._actions, operation.name) if operation.method != "get" else None
        query = getattr(self, operation.name) if action is None else None

        async def handle(request: Request) -> Response:
            if action is not None:
                operator = request.client.host if request.client is not None else "unknown"
                try:
                    done = action(request.path_params.get("id", ""), operator)
                except RefusedError as refused:
                    return problem(409, "refused", str(refused))
                if done is None:
                    return problem(404, "not-found", "No such object exists (any more).")
                return answer(done)
            try:
                parameters = _read_query(operation, request)
            except ParameterError as wrong:
                return problem(400, "wrong-parameter", str(wrong))
            assert query is not None
            return answer(query(**parameters))

        return handle

    def edge(self) -> models.Edge:
        """Return the state of the edge as a whole."""
        return self._models.edge()

    def sessions(self, limit: int, after: str, only: str) -> models.Page[models.Session]:
        """Return a page of the sessions."""
        return self._models.sessions(limit, after, only=only)

    def tunnels(self, limit: int, after: str, only: str) -> models.Page[models.Tunnel]:
        """Return a page of the tunnels."""
        return self._models.tunnels(limit, after, only=only)

    def visitors(self, limit: int, after: str, only: str) -> models.Page[models.Visitor]:
        """Return a page of the visitors."""
        return self._models.visitors(limit, after, only=only)

    def certificates(self, limit: int, after: str) -> models.Page[models.Certificate]:
        """Return a page of the certificates."""
        return self._models.certificates(limit, after)

    def history(self) -> Past:
        """Return the samples of the last hour."""
        return self.samples.past()

    def talkers(self, limit: int) -> Talkers:
        """Return the addresses and tunnels with the most traffic."""
        return self.top_talkers.top(limit)

    def errors(self, limit: int) -> Errors:
        """Return the latest warnings and errors."""
        return self._recent_errors.recent(limit)

    def _recent_talkers(self) -> Talkers:
        """Return talkers from a few seconds ago: with ten thousand visitors they are the most expensive part of a
        snapshot."""
        now = self._models.now()
        if self._talkers is None or not 0 <= now - self._talkers[0] < TALKERS_CACHE_TIME:
            self._talkers = now, self.top_talkers.top(SNAPSHOT_TALKERS)
        return self._talkers[1]

    def snapshot(self) -> Snapshot:
        """Return the state at this moment."""
        return Snapshot(
            at=self._models.now(),
            edge=self._models.edge(),
            sessions=self._models.sessions(SNAPSHOT_ENTRIES),
            tunnels=self._models.tunnels(SNAPSHOT_ENTRIES),
            visitors=self._models.visitors(SNAPSHOT_ENTRIES),
            certificates=self._models.certificates(SNAPSHOT_ENTRIES),
            talkers=self._recent_talkers(),
            errors=self._recent_errors.recent(SNAPSHOT_ENTRIES),
            sample=self.samples.last,
        )


def _read_query(operation: Operation, request: Request) -> dict[str, str | int]:
    """Parse and check the query. Raises Wrong."""
    query = request.query_params
    known = {parameter.name for parameter in operation.parameters}
    for name in query:
        if name not in known:
            raise ParameterError(f"Unknown parameter; known are: {', '.join(sorted(known)) or 'none'}.")
    found: dict[str, str | int] = {}
    for parameter in operation.parameters:
        value = query.get(parameter.name, "")
        if not parameter.most:
            found[parameter.name] = value
        elif not value:
            found[parameter.name] = parameter.default
        elif value.isascii() and value.isdigit() and len(value) < 6 and 1 <= int(value) <= parameter.most:
            found[parameter.name] = int(value)
        else:
            raise ParameterError(f"{parameter.name} should be a number from 1 to {parameter.most}.")
    return found
