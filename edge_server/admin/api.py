"""The operator's JSON API: what there is to ask for, as one table. Routes and their description come from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from edge_server.admin import history, models
from edge_server.admin.actions import Actions, Done, RefusedError, Traced
from edge_server.admin.history import Past, Talkers
from edge_server.admin.recent_errors import KEPT, Errors, RecentErrors
from edge_server.admin.responses import answer, problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from edge_server.observability.introspection import Introspection

PREFIX: Final = "/api/v1"
SHOWN: Final = 50
"""Entries of each list in a snapshot; the lists themselves have all."""
TOP: Final = 10
"""Talkers of each kind there."""
TALKERS_FOR: Final = 5.0
"""Seconds for which snapshots show the same talkers."""
DEFAULT: Final = 100
"""Entries of a list when nobody says how many."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment, the beginning of each list."""

    at: models.Moment
    edge: models.Edge
    sessions: models.Page[models.Session]
    tunnels: models.Page[models.Tunnel]
    visitors: models.Page[models.Visitor]
    certificates: models.Page[models.Certificate]
    talkers: Talkers
    errors: Errors
    sample: Annotated[history.Sample | None, Meta(description="The newest of the history.")]


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of a query."""

    name: str
    description: str
    most: int = 0
    """The largest number that it may be; 0: it is text."""
    default: int = 0


LIMIT: Final = Parameter("limit", "At most so many entries.", models.MAX_PAGE, DEFAULT)
AFTER: Final = Parameter("after", "Begin behind this one: what ``next`` of the answer before said.")


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing to ask for."""

    method: Literal["get", "post", "delete"]
    path: str
    """Below :data:`PREFIX`, with ``{id}`` where one is meant."""
    name: str
    """The method of :class:`Api` that answers, and its operationId."""
    summary: str
    answers: Any
    """The type of the answer."""
    parameters: tuple[Parameter, ...] = ()
    media: str = "application/json"
    refusal: str = ""
    """When an action is refused although there is what it is for (409)."""


def _only(what: str) -> Parameter:
    return Parameter("only", f"Of this {what} alone.")


OPERATIONS: Final = (
    Operation("get", "/edge", "edge", "The edge as a whole", models.Edge),
    Operation(
        "get", "/sessions", "sessions", "Clients and their links, the oldest first", models.Page[models.Session],
        (LIMIT, AFTER, _only("owner")),
    ),
    Operation(
        "get", "/tunnels", "tunnels", "Names that are held, by name", models.Page[models.Tunnel],
        (LIMIT, AFTER, _only("owner")),
    ),
    Operation(
        "get", "/visitors", "visitors", "Visitors who are in, the newest first", models.Page[models.Visitor],
        (LIMIT, AFTER, _only("tunnel")),
    ),
    Operation(
        "get", "/certificates", "certificates", "Certificates for visitors, and how it stands with those of ACME",
        models.Page[models.Certificate], (LIMIT, AFTER),
    ),
    Operation("get", "/history", "history", "The last hour in samples of ten seconds", Past),
    Operation(
        "get", "/talkers", "talkers", "Who moved most", Talkers,
        (Parameter("limit", "At most so many of each kind.", history.MAX_TOP, TOP),),
    ),
    Operation(
        "get", "/errors", "errors", "Warnings and errors of the log, the newest first", Errors,
        (Parameter("limit", "At most so many.", KEPT, KEPT),),
    ),
    Operation("get", "/snapshot", "snapshot", "Everything at once, the beginning of each list", Snapshot),
    Operation(
        "get", "/events", "events", "Snapshots, one a second, as server-sent events of the type `snapshot`",
        Snapshot, media="text/event-stream",
    ),
    Operation("post", "/drain", "drain", "Take nobody any more and end when the visitors have left", Done),
    Operation("post", "/sessions/{id}/end", "end_session", "End a session with its tunnels and visitors", Done),
    Operation(
        "post", "/sessions/{id}/qlog", "trace_session", "Trace a session: write what its connection does",
        Traced, refusal="No file can be begun; the message says why.",
    ),
    Operation("delete", "/sessions/{id}/qlog", "end_trace", "Trace a session no more", Traced),
    Operation("post", "/tunnels/{id}/close", "close_tunnel", "End a tunnel, by name, with its visitors", Done),
    Operation("post", "/visitors/{id}/end", "end_visitor", "Reset a visitor's connection", Done),
)  # fmt: skip
"""All of it. A path and a method that are not here do not exist."""


class Wrong(Exception):  # noqa: N818 - an answer, not an error
    """A parameter that is not what it should be; says what it should."""


class Api:
    """Answers. Every method is called on the loop's thread and waits for nothing."""

    def __init__(self, scene: Introspection, ring: RecentErrors, drain: Callable[[], None]) -> None:
        self._view = models.View(scene)
        self._scene = scene
        self._ring = ring
        self.past = history.History(scene.ledger)
        self.heard = history.TopTalkers(scene.ledger)
        self._actions = Actions(scene, drain)
        self._talkers: tuple[float, Talkers] | None = None

    def handler(self, operation: Operation) -> Callable[[Request], Any]:
        """What Starlette is to call."""
        act = getattr(self._actions, operation.name) if operation.method != "get" else None
        ask = getattr(self, operation.name) if act is None else None

        async def handle(request: Request) -> Response:
            if act is not None:
                who = request.client.host if request.client is not None else "unknown"
                try:
                    done = act(request.path_params.get("id", ""), who)
                except RefusedError as refused:
                    return problem(409, "refused", str(refused))
                if done is None:
                    return problem(404, "not-found", "There is none of that name any more.")
                return answer(done)
            try:
                parameters = _read(operation, request)
            except Wrong as wrong:
                return problem(400, "wrong-parameter", str(wrong))
            assert ask is not None
            return answer(ask(**parameters))

        return handle

    def edge(self) -> models.Edge:
        return self._view.edge()

    def sessions(self, limit: int, after: str, only: str) -> models.Page[models.Session]:
        return self._view.sessions(limit, after, only=only)

    def tunnels(self, limit: int, after: str, only: str) -> models.Page[models.Tunnel]:
        return self._view.tunnels(limit, after, only=only)

    def visitors(self, limit: int, after: str, only: str) -> models.Page[models.Visitor]:
        return self._view.visitors(limit, after, only=only)

    def certificates(self, limit: int, after: str) -> models.Page[models.Certificate]:
        return self._view.certificates(limit, after)

    def history(self) -> Past:
        return self.past.past()

    def talkers(self, limit: int) -> Talkers:
        return self.heard.top(limit)

    def errors(self, limit: int) -> Errors:
        return self._ring.recent(limit)

    def _recent_talkers(self) -> Talkers:
        """Of some seconds ago: with ten thousand visitors they cost the most of a snapshot."""
        now = self._view.now()
        if self._talkers is None or not 0 <= now - self._talkers[0] < TALKERS_FOR:
            self._talkers = now, self.heard.top(TOP)
        return self._talkers[1]

    def snapshot(self) -> Snapshot:
        return Snapshot(
            at=self._view.now(),
            edge=self._view.edge(),
            sessions=self._view.sessions(SHOWN),
            tunnels=self._view.tunnels(SHOWN),
            visitors=self._view.visitors(SHOWN),
            certificates=self._view.certificates(SHOWN),
            talkers=self._recent_talkers(),
            errors=self._ring.recent(SHOWN),
            sample=self.past.last,
        )


def _read(operation: Operation, request: Request) -> dict[str, str | int]:
    """The query, checked. Raises Wrong."""
    given = request.query_params
    known = {parameter.name for parameter in operation.parameters}
    for name in given:
        if name not in known:
            raise Wrong(f"There is no parameter of that name; there are: {', '.join(sorted(known)) or 'none'}.")
    found: dict[str, str | int] = {}
    for parameter in operation.parameters:
        value = given.get(parameter.name, "")
        if not parameter.most:
            found[parameter.name] = value
        elif not value:
            found[parameter.name] = parameter.default
        elif value.isascii() and value.isdigit() and len(value) < 6 and 1 <= int(value) <= parameter.most:
            found[parameter.name] = int(value)
        else:
            raise Wrong(f"{parameter.name} should be a number from 1 to {parameter.most}.")
    return found
