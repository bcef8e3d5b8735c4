"""Quota of orders, so that the tokens of an edge together stay within the authority's rate limits.

The numbers are Let's Encrypt's (https://letsencrypt.org/docs/rate-limits/, July 2026). All tokens of an edge share
its account and domain. A token has a share of them (:mod:`edge_server.resources.shares`), renewals have a reserve,
and past orders are stored in a file, so that a restart does not reset the period.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_server.resources.shares import Shares
from quictunnel.shared.files import make_directory, replace_file

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

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
SHARE: Final = 4
"""Multiple of what is left that one token may have: 40 of 50 new names a week, the next one 8. Smaller than for
other resources, because these recover only after a week."""
CLEANUP_INTERVAL: Final = 60.0
"""Seconds between removals of names that are older than a week."""
MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes of the file. A week has at most 11,200 orders for new names, of about 200 bytes each."""


class RequestedName(NamedTuple):
    """A name that had no certificate when it was requested."""

    at: float
    """Seconds since the epoch."""
    owner: str
    is_ordered: bool
    """True when an order was started; else the name is not in the file."""


class StartedOrder(NamedTuple):
    """An order that was started."""

    at: float
    owner: str
    is_new: bool
    """True for a name that had no certificate."""


class QuotaState(NamedTuple):
    """Content of the file."""

    names: dict[str, RequestedName]
    orders: list[StartedOrder]


class Quota:
    """Counts names and orders. For the event loop's thread, except :meth:`read` and :meth:`save`."""

    def __init__(self, file: Path) -> None:
        """``file`` is read by :meth:`read`."""
        self._file = file
        self._requested: dict[str, dict[str, RequestedName]] = {}
        """New names of the last week by registered domain."""
        self._orders: deque[StartedOrder] = deque()
        """Orders of the last three hours, the oldest first."""
        self._new_orders = Shares(MAX_NEW_ORDERS, share=SHARE)
        """Orders for new names by owner."""
        self._cleaned_at = float("-inf")
        self._content = b""
        """Next content of the file; below, the number of its changes, and of those that are written."""
        self._changes = self._saved = 0
        self._saving = threading.Lock()

    def read(self) -> QuotaState:
        """Read the file, in any thread; empty if it is missing or damaged. :meth:`restore` takes the result."""
        try:
            with self._file.open("rb") as file:
                content = file.read(MAX_FILE + 1)
            if len(content) > MAX_FILE:
                raise ValueError("the file is too large")
            found = json.loads(content)
            return QuotaState(
                {str(name): RequestedName(float(at), str(owner), True) for name, at, owner in found["names"]},
                [StartedOrder(float(at), str(owner), bool(is_new)) for at, owner, is_new in found["orders"]],
            )
        except FileNotFoundError:
            return QuotaState({}, [])
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s cannot be read, so the count of orders starts at zero: %s", self._file, error)
            return QuotaState({}, [])

    def restore(self, before: QuotaState, now: float) -> None:
        """Add the counts of a previous run."""
        # A clock that was ahead when the file was written must not delay orders.
        for name, requested in before.names.items():
            self._of(name).setdefault(name, requested._replace(at=min(requested.at, now)))
        for order in sorted(order._replace(at=min(order.at, now)) for order in before.orders):
            self._count(order)

    def refusal(self, name: str, owner: str, now: float) -> str:
        """Return why no certificate may be requested for a new name; an empty text if one may."""
        self._forget_old(now)
        domain = registered_domain(name)
        requested = self._requested.get(domain, {})
        if name in requested:
            return ""
        shares = Shares(MAX_NEW_NAMES, share=SHARE)
        for each in requested.values():
            shares.take(each.owner)
        if shares.may_take(owner):
            return ""
        if shares.left <= 0:
            return f"the limit of {MAX_NEW_NAMES} new names of {domain} in a week is reached"
        return f"its share of the {MAX_NEW_NAMES} new names of {domain} in a week is used up"

    def request(self, name: str, owner: str, now: float) -> None:
        """Count a new name."""
        self._of(name).setdefault(name, RequestedName(now, owner, False))

    def withdraw(self, name: str) -> None:
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
        """Count an order that starts. Call :meth:`save` before the authority is contacted."""
        if is_new:
            requested = self._of(name)
            requested[name] = requested.get(name, RequestedName(now, owner, True))._replace(is_ordered=True)
        self._count(StartedOrder(now, owner, is_new))
        names = [
            (each, requested.at, requested.owner)
            for named in self._requested.values()
            for each, requested in named.items()
            if requested.is_ordered
        ]
        self._content = json.dumps({"names": names, "orders": list(self._orders)}).encode()
        self._changes += 1

    def save(self) -> None:
        """Write the counts to the file, in any thread. Raises OSError."""
        with self._saving:
            changes, content = self._changes, self._content
            if changes > self._saved:
                make_directory(self._file.parent)
                replace_file(self._file, content)
                self._saved = changes

    def adjust_clock(self, forward: float) -> None:
        """Adjust to a clock that moved ``forward`` seconds, so that no entry becomes older or younger."""
        for requested in self._requested.values():
            for name, each in requested.items():
                requested[name] = each._replace(at=each.at + forward)
        self._orders = deque(each._replace(at=each.at + forward) for each in self._orders)
        self._cleaned_at += forward

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
                self._new_orders.give_back(order.owner)
        if now >= self._cleaned_at + CLEANUP_INTERVAL:
            self._cleaned_at = now
            for requested in tuple(self._requested.values()):
                for name in [name for name, each in requested.items() if each.at <= now - WEEK]:
                    self._forget(name)


def registered_domain(name: str) -> str:
    """Return the registered domain of a name, by which an authority counts. Without the public suffix list that is
    the last two labels, or three where the last two look like ``co.uk``; where that is wrong the edge is stricter
    than the authority."""
    labels = name.removeprefix("*.").split(".")
    has_country_suffix = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if has_country_suffix else -2 :])
