"""What an operator can do from the page. Each is said in the log, with who asked for it, whatever the level."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from edge_server.admin.view import id_of
from quictunnel.wire.codes import BindCode, SessionCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.leases import Lease
    from edge_server.scene import Scene

audit: Final = logging.getLogger("edge_server.audit")
audit.setLevel(logging.INFO)  # who ended what is said also where --log-level is higher


class Done(msgspec.Struct, frozen=True):
    """An action that was carried out."""

    action: str
    target: Annotated[str, Meta(description="What it was done to; empty for the edge itself.")]


class Actions:
    """See the module. Each says whether there was such a thing."""

    def __init__(self, scene: Scene, drain: Callable[[], None]) -> None:
        self._scene = scene
        self._drain = drain

    def drain(self, _: str, who: str) -> bool:
        """Take nobody any more, let those who are in finish within ``--grace``, and end the edge."""
        _say(who, "drains the edge", "drain", "")
        self._drain()
        return True

    def end_session(self, target: str, who: str) -> bool:
        """End a session, its tunnels and their visitors. The client gives up; started again, it may come back."""
        for guest in tuple(self._scene.guests):
            if guest.identity is not None and id_of(guest) == target:
                _say(who, f"ends session {target} of client {guest.identity.key}", "end session", target)
                guest.end(SessionCode.ENDED)
                return True
        return False

    def close_tunnel(self, target: str, who: str) -> bool:
        """End a tunnel and its visitors; its clients are told that it was withdrawn. The name is not banned."""
        house = self._scene.house
        held = house.registry.find(target)
        if held is None:
            return False
        _say(who, f"closes tunnel {target} of client {held.owner}", "close tunnel", target)
        for lease in tuple(house.registry.alive):
            if lease.name == target:  # also those whose lease is over, and who stayed
                lease.end_visitors()
        for lease in tuple(held.pool.members) if held.pool is not None else (held,):
            self._take_away(lease)
        return True

    def end_visitor(self, target: str, who: str) -> bool:
        """Reset one visitor's connection."""
        house = self._scene.house
        number = house.ledger.number_of(target)
        visit = next((visit for visit in house.ledger.now if visit.number == number), None)
        if visit is None:
            return False
        _say(who, f"ends visitor {target} of {visit.lease}, from {visit.host}", "end visitor", target)
        return any(lease.end_visit(visit) for lease in tuple(house.registry.alive))

    def _take_away(self, lease: Lease) -> None:
        self._scene.house.claims.record("closed", lease, "")
        if lease.holdings is None:
            self._scene.house.expected.give_up(lease)
        else:
            lease.holdings.lose(lease, BindCode.BANNED)


def _say(who: str, what: str, action: str, target: str) -> None:
    fields = {"audit": action, "target": target, "operator": who}
    audit.info("the operator at %s %s", who, what, extra={"fields": fields})
