"""Reasons why permissions forbid a Bind, as the client gets them: clauses with the figures of its own token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.wire.codes import BindCode

if TYPE_CHECKING:
    from edge_server.auth.permissions import Identity
    from edge_server.tunnels.bind_facts import BindFacts


def forbidden_name(name: str, facts: BindFacts) -> str:
    """Return why the permissions of a token forbid a name or domain."""
    permissions = facts.identity.permissions
    match facts.name.forbidden:
        case BindCode.NAME_RESERVED:
            return f"the edge reserves the name {name}"
        case BindCode.NAME_TAKEN:
            return f"the name {name} is reserved for another token"
        case BindCode.DOMAIN_FORBIDDEN:
            return f"the token does not allow the domain {name}, {_only(permissions.domains) or 'nor any other'}"
        case _:
            only = _only(permissions.names) or "only names that the edge chooses"
            return f"the token does not allow the name {name}, {only}"


def forbidden_port(port: int, identity: Identity) -> str:
    """Return why the permissions of a token forbid a TCP port."""
    allowed = identity.permissions.tcp_ports
    return f"the token does not allow TCP port {port}, " + (
        f"only {allowed.start}-{allowed.stop - 1}" if allowed else "nor any other"
    )


def banned_port(port: int) -> str:
    """Return that a TCP port is banned."""
    return f"the operator has banned TCP port {port}"


def limit_of_tunnels(identity: Identity) -> str:
    """Return the limit of tunnels of a token that is reached."""
    limit = identity.permissions.tunnels
    return f"the token may have {limit} tunnel{'s' * (limit != 1)} at once, and has as many"


def _only(allowed: tuple[str, ...] | None) -> str:
    return f"only {', '.join(allowed)}" if allowed else ""
