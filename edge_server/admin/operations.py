"""The operations of the operator's JSON API as one table, from which the routes and the OpenAPI description are
built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from edge_server.admin import history, lists, state_types, visit_history
from edge_server.admin.actions import Done, Traced
from edge_server.admin.history import Past, Talkers
from edge_server.admin.lists import Page
from edge_server.admin.name_management import MAX_EVENTS, NAME_SORTS, ChangedName, Events, Name, NameRequest
from edge_server.admin.recent_errors import MAX_RECORDS, Errors
from edge_server.admin.token_management import TOKEN_SORTS, CreatedToken, NewToken, Token, TokenChange
from edge_server.admin.tunnel_detail import TunnelDetail
from edge_server.admin.visit_history import Visit

PREFIX: Final = "/api/v1"
"""Path prefix of all operations."""
SNAPSHOT_TALKERS: Final = 10
"""Talkers of each kind in a snapshot."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state at one moment, with the beginning of each list."""

    at: state_types.Timestamp
    edge: state_types.Edge
    sessions: Page[state_types.Session]
    tunnels: Page[state_types.Tunnel]
    visitors: Page[state_types.Visitor]
    certificates: Page[state_types.Certificate]
    talkers: Talkers
    errors: Errors
    sample: Annotated[history.Sample | None, Meta(description="The latest sample of the history.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A query parameter: a number if it has a :attr:`most`, otherwise a text."""

    name: str
    description: str
    least: int = 1
    """Smallest number."""
    most: int | None = None
    """Largest number; None: the parameter is a text."""
    default: int = 0
    longest: int = 300
    """Characters of a text; a name has at most 253."""
    choices: tuple[str, ...] = ()
    """Valid texts; empty: any."""


def _limit(most: int, default: int, what: str = "of entries") -> Parameter:
    return Parameter(name="limit", description=f"Maximum number {what}.", most=most, default=default)


def _list_parameters(*sorts: str) -> tuple[Parameter, ...]:
    """Return the parameters of a list that can be sorted by these columns."""
    parameters = (
        _limit(lists.MAX_PAGE, lists.DEFAULT_LIMIT),
        Parameter(
            name="after",
            description="Start after this entry: the value of ``next`` in the previous response.",
        ),
        Parameter(name="offset", description="Number of entries to skip.", least=0, most=lists.MAX_OFFSET),
        Parameter(
            name="search",
            description="Only entries that contain this text, in upper or lower case.",
            longest=lists.MAX_SEARCH,
        ),
    )
    if not sorts:
        return parameters
    choices = tuple(f"{sign}{column}" for column in sorts for sign in ("", lists.DESCENDING))
    sort = Parameter(
        name="sort", description="Column to sort by; with - before it the largest first.", choices=choices
    )
    return (*parameters, sort)


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of the API."""

    method: Literal["get", "post", "patch", "delete"]
    path: str
    """Path below :data:`PREFIX`, with ``{id}`` for an object."""
    name: str
    """Name of the method that carries it out, and operationId."""
    summary: str
    answers: Any
    """Type of the response."""
    parameters: tuple[Parameter, ...] = ()
    media: str = "application/json"
    refusal: str = ""
    """Description of a refusal although the target exists (409)."""
    body: Any = None
    """Type of the request's body; None: it has none."""
    is_stored: bool = False
    """True if it uses the databases of the state directory, which may fail (503)."""


def _only(what: str, *choices: str) -> Parameter:
    return Parameter(name="only", description=f"Only {what}.", choices=choices)


OPERATIONS: Final = (
    Operation("get", "/edge", "edge", "The edge as a whole", state_types.Edge),
    Operation(
        "get", "/sessions", "sessions", "Clients and their links, the oldest first", Page[state_types.Session],
        (*_list_parameters(), _only("entries of this owner")),
    ),
    Operation(
        "get", "/tunnels", "tunnels", "Tunnels, sorted by name", Page[state_types.Tunnel],
        (
            *_list_parameters(
                "name", "owner", "visitors", "bytes_in", "bytes_out", "rate_in", "rate_out", "age"
            ),
            _only("entries of this owner"),
        ),
    ),
    Operation(
        "get", "/tunnels/{id}", "tunnel", "A tunnel, by name: its last hour, visitors, events and errors",
        TunnelDetail, is_stored=True,
    ),
    Operation(
        "get", "/visitors", "visitors", "Active visitors, the newest first", Page[state_types.Visitor],
        (
            *_list_parameters("address", "tunnel", "bytes_in", "bytes_out", "age"),
            _only("entries of this tunnel"),
        ),
    ),
    Operation(
        "get", "/visits", "visits", "Visitors that left within the last hour, the newest first", Page[Visit],
        (
            *_list_parameters(*visit_history.SORTS),
            Parameter(name="tunnel", description="Only entries of this tunnel."),
            _only("those that were not served to the end", "failed"),
        ),
    ),
    Operation(
        "get", "/certificates", "certificates", "Certificates for visitors, the most urgent first",
        Page[state_types.Certificate], _list_parameters(),
    ),
    Operation(
        "get", "/tokens", "tokens", "Tokens, the newest first, without their secrets", Page[Token],
        (*_list_parameters(*TOKEN_SORTS), _only("tokens in this state", "good", "expired", "revoked")),
        is_stored=True,
    ),
    Operation(
        "get", "/names", "names", "Owners of names and TCP ports, and bans, sorted by name", Page[Name],
        (*_list_parameters(*NAME_SORTS), _only("bans, or entries with an owner", "banned", "owned")),
        is_stored=True,
    ),
    Operation(
        "get", "/names/history", "name_history", "Owners of names by day, the newest first", Events,
        (
            _limit(MAX_EVENTS, lists.DEFAULT_LIMIT),
            Parameter(name="name", description="Only entries of this name."),
            Parameter(name="owner", description="Only entries of this owner."),
        ),
        is_stored=True,
    ),
    Operation("get", "/history", "history", "The last hour in samples of ten seconds", Past),
    Operation(
        "get", "/talkers", "talkers", "Addresses and tunnels with the most traffic", Talkers,
        (_limit(history.MAX_TOP, SNAPSHOT_TALKERS, "of each kind"),),
    ),
    Operation(
        "get", "/errors", "errors", "Warnings and errors of the log, the newest first", Errors,
        (_limit(MAX_RECORDS, MAX_RECORDS),),
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
    Operation(
        "post", "/tokens", "create_token", "Create a token; the response alone contains it",
        CreatedToken, body=NewToken, is_stored=True,
    ),
    Operation(
        "patch", "/tokens/{id}", "change_token",
        "Change a token's note, rights and limits; absent fields stay, tunnels that it may no longer have end",
        Token, body=TokenChange, refusal="The token is revoked.", is_stored=True,
    ),
    Operation(
        "post", "/tokens/{id}/revoke", "revoke_token", "Revoke a token for good; its sessions end", Token,
        is_stored=True,
    ),
    Operation(
        "post", "/names/release", "release_name", "Release a name, port or network; also lifts a ban",
        ChangedName, body=NameRequest, is_stored=True,
    ),
    Operation(
        "post", "/names/ban", "ban_name", "Ban a name, port, address or network; its tunnel and visitors end",
        ChangedName, body=NameRequest, is_stored=True,
    ),
)  # fmt: skip
"""All operations. Any other path or method does not exist."""
