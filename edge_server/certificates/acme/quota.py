"""How much is asked of an authority, so that what all tokens may ask for adds up to what it signs.

The figures are Let's Encrypt's (https://letsencrypt.org/docs/rate-limits/, July 2026), whose account and domain
all tokens of an edge share. A token has its share of them (:mod:`edge_server.resources.shares`), renewals have a
reserve, and what was asked for is kept in a file: a restart begins no new week.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from certs.authority import replace_file
from edge_server.resources.shares import Shares

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

WEEK: Final = 7 * 86_400.0
NEW_A_WEEK: Final = 50
"""New names of one registered domain in a week. A renewal, which has the same names as before, does not count."""
ORDER_SECONDS: Final = 3 * 3600.0
ORDERS: Final = 300
"""Orders of one account in three hours, those that fail included."""
NEW_ORDERS: Final = 200
"""Of those, for names that have no certificate yet: the rest is kept for renewals and the edge's own."""
SHARE: Final = 4
"""How many times what is left one token may have: 40 of 50 new names a week, the next one 8. Less than of other
things, because what is used up here comes back after a week."""
LOOK: Final = 60.0
"""Seconds between looks for names that are older than a week."""
MAX_FILE: Final = 4 * 1024 * 1024
"""Bytes of the file. The orders of a week for new names are 11,200, of some 200 bytes each."""


class Asked(NamedTuple):
    """A name that had no certificate when it was asked for."""

    at: float
    """Seconds since the epoch."""
    owner: str
    is_ordered: bool
    """True when an order was begun; else the name is not in the file."""


class Ordered(NamedTuple):
    """An order that was begun."""

    at: float
    owner: str
    is_new: bool
    """For a name that had no certificate."""


class Before(NamedTuple):
    """Content of the file."""

    names: dict[str, Asked]
    orders: list[Ordered]


class Quota:
    """On the loop's thread, except :meth:`read` and :meth:`save`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._asked: dict[str, dict[str, Asked]] = {}
        """New names of the last week by their registered domain."""
        self._orders: deque[Ordered] = deque()
        """Of the last three hours, the oldest first."""
        self._new_orders = Shares(NEW_ORDERS, share=SHARE)
        """Orders for new names by owner."""
        self._looked = float("-inf")
        self._content = b""
        """Next content of the file; below, how often it has changed and how much of that is written."""
        self._changes = self._saved = 0
        self._saving = threading.Lock()

    def read(self) -> Before:
        """Read what was asked for before, in any thread; nothing where that is unknown. :meth:`go_on` follows."""
        try:
            with self._file.open("rb") as file:
                content = file.read(MAX_FILE + 1)
            if len(content) > MAX_FILE:
                raise ValueError("it is too large")
            found = json.loads(content)
            return Before(
                {str(name): Asked(float(at), str(owner), True) for name, at, owner in found["names"]},
                [Ordered(float(at), str(owner), bool(is_new)) for at, owner, is_new in found["orders"]],
            )
        except FileNotFoundError:
            return Before({}, [])
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("%s cannot be used, so orders are counted from now on: %s", self._file, error)
            return Before({}, [])

    def go_on(self, before: Before, now: float) -> None:
        """Count what was asked for before."""
        # A clock that was ahead when it was written must not keep anybody waiting.
        for name, asked in before.names.items():
            self._of(name).setdefault(name, asked._replace(at=min(asked.at, now)))
        for order in sorted(order._replace(at=min(order.at, now)) for order in before.orders):
            self._count(order)

    def refusal(self, name: str, owner: str, now: float) -> str:
        """Return why no certificate may be asked for a name that has none; an empty text if one may."""
        self._forget_old(now)
        domain = registered_domain(name)
        asked = self._asked.get(domain, {})
        if name in asked:
            return ""
        shares = Shares(NEW_A_WEEK, share=SHARE)
        for each in asked.values():
            shares.take(each.owner)
        if shares.may_take(owner):
            return ""
        if shares.left <= 0:
            return f"one more than the {NEW_A_WEEK} new names of {domain} that an authority signs in a week"
        return f"{shares.held_by(owner)} new names of {domain} within a week, its share of {NEW_A_WEEK}"

    def ask(self, name: str, owner: str, now: float) -> None:
        """Count a new name."""
        self._of(name).setdefault(name, Asked(now, owner, False))

    def give_up(self, name: str) -> None:
        """Forget a name that is not asked for any more, unless an order was begun."""
        asked = self._asked.get(registered_domain(name), {}).get(name)
        if asked is not None and not asked.is_ordered:
            self._forget(name)

    def wait(self, owner: str, *, is_new: bool, now: float) -> float:
        """Seconds until an order may begin; 0 for now."""
        self._forget_old(now)
        is_possible = len(self._orders) < ORDERS and (not is_new or self._new_orders.may_take(owner))
        return 0.0 if is_possible else max(1.0, self._orders[0].at + ORDER_SECONDS - now)

    def begin(self, name: str, owner: str, *, is_new: bool, now: float) -> None:
        """An order begins; :meth:`save` has to follow, before the authority is asked."""
        if is_new:
            asked = self._of(name)
            asked[name] = asked.get(name, Asked(now, owner, True))._replace(is_ordered=True)
        self._count(Ordered(now, owner, is_new))
        names = [
            (each, asked.at, asked.owner)
            for named in self._asked.values()
            for each, asked in named.items()
            if asked.is_ordered
        ]
        self._content = json.dumps({"names": names, "orders": list(self._orders)}).encode()
        self._changes += 1

    def save(self) -> None:
        """Write what was counted, in any thread. Raises OSError."""
        with self._saving:
            changes, content = self._changes, self._content
            if changes > self._saved:
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                replace_file(self._file, content, mode=0o600)
                self._saved = changes

    def moved(self, forward: float) -> None:
        """Follow a clock that was set by so many seconds: nothing becomes older or younger by that."""
        for asked in self._asked.values():
            for name, each in asked.items():
                asked[name] = each._replace(at=each.at + forward)
        self._orders = deque(each._replace(at=each.at + forward) for each in self._orders)
        self._looked += forward

    def _of(self, name: str) -> dict[str, Asked]:
        return self._asked.setdefault(registered_domain(name), {})

    def _forget(self, name: str) -> None:
        domain = registered_domain(name)
        del self._asked[domain][name]
        if not self._asked[domain]:
            del self._asked[domain]

    def _count(self, order: Ordered) -> None:
        self._orders.append(order)
        if order.is_new:
            self._new_orders.take(order.owner)

    def _forget_old(self, now: float) -> None:
        while self._orders and self._orders[0].at <= now - ORDER_SECONDS:
            order = self._orders.popleft()
            if order.is_new:
                self._new_orders.give_back(order.owner)
        if now >= self._looked + LOOK:
            self._looked = now
            for asked in tuple(self._asked.values()):
                for name in [name for name, each in asked.items() if each.at <= now - WEEK]:
                    self._forget(name)


def registered_domain(name: str) -> str:
    """Return the part of a name that was registered, which an authority counts by. Without the list of public
    suffixes that is the last two labels, or three where the last two look like ``co.uk``; where that is too much
    the edge is stricter than the authority."""
    labels = name.removeprefix("*.").split(".")
    is_country = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if is_country else -2 :])
