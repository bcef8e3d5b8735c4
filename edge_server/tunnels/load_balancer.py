"""Clients that share a name: whom the next visitor goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from edge_server.tunnels.lease import Lease

MAX_MEMBERS: Final = 256
"""Clients that share one name. Each visitor's choice looks at all of them: a tenth of a millisecond."""


class LoadBalancer:
    """The leases of one name, all of one identity and all of which asked to share it."""

    def __init__(self) -> None:
        self.members: list[Lease] = []

    def add(self, lease: Lease) -> None:
        self.members.append(lease)

    def remove(self, lease: Lease) -> None:
        self.members.remove(lease)

    def choose(self, besides: Collection[Lease] = ()) -> Lease | None:
        """The one with the fewest visitors among those that are well; where none is, among those whose client is
        there although its origin has just refused; else among all. Of several with equally few each has its turn.
        None when there is nobody (``besides`` those)."""
        candidates = [lease for lease in self.members if lease not in besides]
        if not candidates:
            return None
        chosen = min(
            candidates, key=lambda lease: (not lease.is_reachable, not lease.is_well, len(lease.visitors))
        )
        self.members.remove(chosen)
        self.members.append(chosen)
        return chosen
