"""Quota of certificates and orders, so that the tokens of an edge together stay within the CA's rate limits.

The numbers are Let's Encrypt's (https://letsencrypt.org/docs/rate-limits/, July 2026). All tokens of an edge share
its account and domain. A token has a share of them (:mod:`edge_server.resources.shares`), and renewals have a
reserve. Pure decisions: the caller passes the time, and stores :attr:`Quota.state`.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from edge_server.resources.shares import Shares

MAX_CERTIFICATES: Final = 1000
"""Certificates of one edge; each is renewed every two months or so, which is what an account may request."""
MAX_PER_OWNER: Final = 100
"""Certificates of one token; as many as the names it may claim."""
WEEK: Final = 7 * 86_400.0
"""Seconds."""
MAX_NEW_NAMES: Final = 50
"""New names of one registered domain in a week. A renewal with the same names does not count."""
ORDER_PERIOD: Final = 3 * 3600.0
"""Period of :data:`MAX_ORDERS` in seconds."""
MAX_ORDERS: Final = 300
"""Orders of one account in three hours, failed ones included."""
MAX_NEW_ORDERS: Final = 200
"""Orders for names without a certificate among them; the rest is reserved for renewals and for the edge's own."""
TOKEN_MAX_PER_FREE: Final = 4
"""Orders or new names that one token may have for each one that is left: 40 of 50 new names a week, the next
one 8. Smaller than for other resources, because these recover only after a week."""
CLEANUP_INTERVAL: Final = 60.0
"""Seconds between removals of names that are older than a week."""


class RequestedName(NamedTuple):
    """A name that had no certificate when it was requested."""

    at: float
    """Seconds since the epoch."""
    owner: str
    is_ordered: bool
    """True when an order was started; else the name is not stored."""


class StartedOrder(NamedTuple):
    """An order that was started."""

    at: float
    owner: str
    is_new: bool
    """True for a name that had no certificate."""


class QuotaState(NamedTuple):
    """Counts that have to outlive the process."""

    names: dict[str, RequestedName]
    """Names for which an order was started in the last week."""
    orders: list[StartedOrder]
    """Orders of the last three hours."""


class Quota:
    """Counts names and orders."""

    def __init__(self) -> None:
        """Start at zero; :meth:`restore` adds the counts of a previous run."""
        self._requested: dict[str, dict[str, RequestedName]] = {}
        """New names of the last week by registered domain."""
        self._orders: deque[StartedOrder] = deque()
        """Orders of the last three hours, the oldest first."""
        self._new_orders = Shares(MAX_NEW_ORDERS, max_per_free=TOKEN_MAX_PER_FREE)
        """Orders for new names by owner."""
        self._cleaned_at = float("-inf")

    @property
    def state(self) -> QuotaState:
        """Counts to store."""
        names = {
            name: each
            for requested in self._requested.values()
            for name, each in requested.items()
            if each.is_ordered
        }
        return QuotaState(names, list(self._orders))

    def restore(self, before: QuotaState, now: float) -> None:
        """Add the counts of a previous run."""
        # A clock that was ahead when the file was written must not delay orders.
        for name, requested in before.names.items():
            self._of(name).setdefault(name, requested._replace(at=min(requested.at, now)))
        for order in sorted(order._replace(at=min(order.at, now)) for order in before.orders):
            self._count(order)

    def refusal(self, name: str, owner: str, *, owned: int, total: int, now: float) -> str:
        """Return why no certificate may be requested for a new name; an empty text if one may.

        Args:
            name: host name.
            owner: token key.
            owned: number of certificates that this owner needs.
            total: number of certificates of the edge, without those that may be removed for a new one.
            now: seconds since the epoch.
        """
        self._forget_old(now)
        if why := self._new_name_refusal(name, owner):
            return why
        if owned >= MAX_PER_OWNER:
            return f"its limit of {MAX_PER_OWNER} certificates is reached"
        if total >= MAX_CERTIFICATES:
            return f"the limit of {MAX_CERTIFICATES} certificates of the edge is reached"
        return ""

    def request(self, name: str, owner: str, now: float) -> None:
        """Count a new name."""
        self._of(name).setdefault(name, RequestedName(now, owner, False))

    def cancel_request(self, name: str) -> None:
        """Remove a name that is no longer requested, unless an order was started for it."""
        requested = self._requested.get(registered_domain(name), {}).get(name)
        if requested is not None and not requested.is_ordered:
            self._forget(name)

    def wait(self, owner: str, *, is_new: bool, now: float) -> float:
        """Return the seconds until an order may start; 0 for now."""
        self._forget_old(now)
        is_possible = len(self._orders) < MAX_ORDERS and (not is_new or self._new_orders.may_take(owner))
        return 0.0 if is_possible else max(1.0, self._orders[0].at + ORDER_PERIOD - now)

    def begin(self, name: str, owner: str, *, is_new: bool, now: float) -> None:
        """Count an order that starts. Store :attr:`state` before the CA is contacted."""
        if is_new:
            requested = self._of(name)
            requested[name] = requested.get(name, RequestedName(now, owner, True))._replace(is_ordered=True)
        self._count(StartedOrder(now, owner, is_new))

    def adjust_clock(self, forward: float) -> None:
        """Adjust to a clock that moved ``forward`` seconds, so that no entry becomes older or younger."""
        for requested in self._requested.values():
            for name, each in requested.items():
                requested[name] = each._replace(at=each.at + forward)
        self._orders = deque(each._replace(at=each.at + forward) for each in self._orders)
        self._cleaned_at += forward

    def _new_name_refusal(self, name: str, owner: str) -> str:
        domain = registered_domain(name)
        requested = self._requested.get(domain, {})
        if name in requested:
            return ""
        shares = Shares(MAX_NEW_NAMES, max_per_free=TOKEN_MAX_PER_FREE)
        for each in requested.values():
            shares.take(each.owner)
        if shares.may_take(owner):
            return ""
        if shares.available <= 0:
            return f"the limit of {MAX_NEW_NAMES} new names of {domain} in a week is reached"
        return f"its share of the {MAX_NEW_NAMES} new names of {domain} in a week is used up"

    def _of(self, name: str) -> dict[str, RequestedName]:
        return self._requested.setdefault(registered_domain(name), {})

    def _forget(self, name: str) -> None:
        domain = registered_domain(name)
        del self._requested[domain][name]
        if not self._requested[domain]:
            del self._requested[domain]

    def _count(self, order: StartedOrder) -> None:
        self._orders.append(order)
        if order.is_new:
            self._new_orders.take(order.owner)

    def _forget_old(self, now: float) -> None:
        while self._orders and self._orders[0].at <= now - ORDER_PERIOD:
            order = self._orders.popleft()
            if order.is_new:
                self._new_orders.release(order.owner)
        if now >= self._cleaned_at + CLEANUP_INTERVAL:
            self._cleaned_at = now
            for requested in tuple(self._requested.values()):
                for name in [name for name, each in requested.items() if each.at <= now - WEEK]:
                    self._forget(name)


def registered_domain(name: str) -> str:
    """Return the registered domain of a name, by which a CA counts. Without the public suffix list that is
    the last two labels, or three where the last two look like ``co.uk``; where that is wrong the edge is stricter
    than the CA."""
    labels = name.removeprefix("*.").split(".")
    has_country_suffix = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if has_country_suffix else -2 :])
