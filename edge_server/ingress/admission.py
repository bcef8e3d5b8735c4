"""May one more visitor come in?

Counts what is in, of each owner, each lease, each address, each network and altogether, and says no at the cap, so
that a flood of visitors is refused one by one while the tunnels' own sockets and files go on working. Nobody takes
all places: an owner, a lease, an address and a network may have so many times what is left. While there is plenty
of room that limits nobody, so people who share an address are not punished for it; when it gets scarce, whoever
has the most is the first to get no more. How many come in a second is :mod:`edge_server.ingress.rate_limit`'.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from edge_server.ingress.ip_filter import IpFilter
from edge_server.ingress.rate_limit import ConnectionRateLimiter
from edge_server.resources.descriptor_budget import REMEDY, DescriptorBudget, ShortageLog, descriptor_limit
from edge_server.resources.fair_places import FairPlaces
from edge_server.resources.peer_network import neighbourhood, network_of

if TYPE_CHECKING:
    from collections.abc import Iterable

SHARE: Final = 8
"""How many times what is left one owner, lease, address or network may have (dynamic thresholds, Choudhury and
Hahne 1998). One that takes all it can gets to 8/9 of the places, a second one to 8/9 of the rest, and the next
still finds some."""
ALWAYS: Final = 16
"""Places that everybody may have as long as there are any..."""
ALWAYS_SHARE: Final = 16
"""... but one in so many, where there are few."""
WAITING_SHARE: Final = 4
"""One in so many places is for visitors whose client is away; they hold a descriptor, and some 30 KiB of TLS."""
MAX_WAITING: Final = 4096
"""Of them, where there are many places: a flood is cut at about 120 MiB."""
MAX_WAITING_PER_LEASE: Final = 256
"""Of them at one lease."""
WAIT: Final = 10.0
"""Seconds that a visitor waits for a client that lost its link; longer than most who come back need, shorter than
browsers and people have patience for."""


class WaitingVisitor(Protocol):
    """An admitted visitor whose client has no link at the moment."""

    def send_away(self) -> None:
        """Refuse the visitor: another one has taken its place."""


class Admission:
    """The number of visitors, and its cap."""

    def __init__(self, cap: int | None = None, arrivals: ConnectionRateLimiter | None = None) -> None:
        """``arrivals``: how many may come in a second; by default anybody."""
        self.arrivals = arrivals or ConnectionRateLimiter(lambda: 0, time.monotonic)
        self.budget = DescriptorBudget.of(descriptor_limit())
        self.doorstep = self.budget.doorstep
        """How many visitors may be between accept and the end of their TLS handshake."""
        self.cap = self.budget.visitors if cap is None else cap
        self.waiting: FairPlaces[WaitingVisitor] = FairPlaces(
            max(1, min(MAX_WAITING, self.cap // WAITING_SHARE)),
            limit_per_lease=MAX_WAITING_PER_LEASE,
            patience=WAIT,  # who came first was promised that
            clock=time.monotonic,
        )
        """Visitors who are in, and for whom no client is there now."""
        self.shortage = ShortageLog()
        self.inside = 0
        self.refused = 0
        self._always = min(ALWAYS, max(1, self.cap // ALWAYS_SHARE))
        self._of: Counter[str] = Counter()
        self._at: Counter[str] = Counter()
        self._from: Counter[str] = Counter()
        self._within: Counter[str] = Counter()
        self._banned = IpFilter((), ())

    def ban(self, networks: Iterable[str]) -> None:
        """Nobody may come from these from now on, and from those of before anybody may."""
        self._banned = IpFilter((), networks)

    def admits(self, host: str) -> bool:
        """Whether anybody may come from there."""
        return self._banned.admits(host)

    def enter(self, owner: str, lease: str, host: str, most: int | None = None) -> bool:
        """Take a place for a visitor of ``owner``, who may have ``most`` of them, at that lease and from that
        address. False: there is none; the visitor is counted as refused."""
        neighbours, network = neighbourhood(host), network_of(host)
        fair = max(self._always, SHARE * (self.cap - self.inside))
        held = max(self._of[owner], self._at[lease], self._from[neighbours], self._within[network])
        is_short = self.inside >= self.cap or held >= fair
        if is_short or not self.admits(host) or (most is not None and self._of[owner] >= most):
            self.refused += 1
            if is_short:
                self.shortage.tell("places for visitors are scarce, one was refused", self._tell_places)
            return False
        self.inside += 1
        self._of[owner] += 1
        self._at[lease] += 1
        self._from[neighbours] += 1
        self._within[network] += 1
        return True

    def leave(self, owner: str, lease: str, host: str) -> None:
        """Give a place back."""
        self.inside -= 1
        for count, key in (
            (self._of, owner),
            (self._at, lease),
            (self._from, neighbourhood(host)),
            (self._within, network_of(host)),
        ):
            count[key] -= 1
            if not count[key]:
                del count[key]

    def wait(self, waiting: WaitingVisitor, host: str, owner: str, lease: str) -> WaitingVisitor | None:
        """Give an admitted visitor a place to wait for its client.

        Returns the visitor that lost its place to this one, perhaps this one itself; None if nobody did.
        """
        loser = self.waiting.enter(waiting, host, owner=owner, lease=lease)
        if loser is not None:
            what = "places for visitors who wait for a client are scarce, one was refused"
            self.shortage.tell(what, self._tell_waiting)
        return loser

    def _tell_waiting(self) -> str:
        network, held = self.waiting.largest_network()
        return f"{len(self.waiting)} of {self.waiting.limit} are taken, {held} by {network}"

    def _tell_places(self) -> str:
        (network, held), (owner, owned) = self._within.most_common(1)[0], self._of.most_common(1)[0]
        return (
            f"{self.inside} of {self.cap} are taken, {held} by {network}, {owned} by tunnels of {owner}; "
            f"{self.budget.limit} file descriptors allow no more ({REMEDY})"
        )
