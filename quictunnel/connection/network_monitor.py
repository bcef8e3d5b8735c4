"""Detection of changes of this machine's network and of times at which the machine or process was suspended.

Linux reports changes at once (netlink, rtnetlink(7)). On every system a check once a second detects another local
address on the route to the edge, and a clock that has advanced while this process did not run (a laptop that was
suspended, a container that was paused). The connection manager decides how to react.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import socket
import time
from typing import TYPE_CHECKING, Final

from quictunnel.shared import unpatched

if TYPE_CHECKING:
    from collections.abc import Callable

    from quictunnel.transport.engine import Address

logger = logging.getLogger(__name__)

CHECK_INTERVAL: Final = 1.0
"""Seconds between checks."""
SUSPEND_THRESHOLD: Final = 5.0
"""Seconds by which a check has to be late to count as a suspend: longer than a busy machine keeps a process
waiting."""
DEBOUNCE_TIME: Final = 0.02
"""Seconds between two checks that are caused by reports of the system: one change makes several messages, and
other containers of the machine cause many."""
READ_SIZE: Final = 64 * 1024

# linux/rtnetlink.h: links, and the addresses and routes of both families.
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400


class NetworkChange(enum.Enum):
    """A change of this machine's network. The values are texts for events and logs."""

    ADDRESS = "this machine has another address"
    """The local address on the route to the edge changed; sockets bound to the old one are of no use any more."""
    OFF_ROUTE = "something about this machine's network changed"
    """A change that does not visibly affect the route to the edge, but a dial that failed before may succeed now.
    Reported once a second at most."""
    SUSPENDED = "this process was suspended for a while"


def _clock() -> float:
    """Return seconds that also count while the machine is suspended, where the system has such a clock."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if boottime is None else time.clock_gettime(boottime)


def source_address(peer: Address) -> str | None:
    """Return the local address from which datagrams to ``peer`` are sent; None if there is no route."""
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    try:
        with unpatched.new_socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(peer)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return None


class NetworkMonitor:
    """Calls ``changed`` on the running event loop, until :meth:`close`."""

    def __init__(
        self,
        changed: Callable[[NetworkChange], None],
        *,
        clock: Callable[[], float] = _clock,
        source: Callable[[Address], str | None] = source_address,
    ) -> None:
        self._changed = changed
        self._clock = clock
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._peer: Address | None = None
        self._address: str | None = None
        self._checked_at = clock()
        self._other_reported_at = float("-inf")
        self._debounce: asyncio.TimerHandle | None = None
        self._netlink = _subscribe()
        if self._netlink is not None:
            try:
                self._loop.add_reader(self._netlink, self._on_netlink)
            except NotImplementedError:
                self._netlink.close()
                self._netlink = None
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check)

    def watch_route_to(self, peer: Address) -> None:
        """Watch the route to this edge: remember the local address with which it is reached."""
        self._peer = peer
        self._address = self._source(peer)

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._debounce is not None:
            self._debounce.cancel()
        if self._netlink is not None:
            self._loop.remove_reader(self._netlink)
            self._netlink.close()
            self._netlink = None

    def _check(self) -> None:
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check)
        now = self._clock()
        was_suspended = now - self._checked_at > CHECK_INTERVAL + SUSPEND_THRESHOLD
        self._checked_at = now
        if self._update_address():
            self._changed(NetworkChange.ADDRESS)
        elif was_suspended:
            self._changed(NetworkChange.SUSPENDED)

    def _update_address(self) -> bool:
        """Look the local address up. Return True if it changed."""
        if self._peer is None:
            return False
        before, found = self._address, self._source(self._peer)
        if found is None or found == before:
            return False  # without a route there is no address to move to
        self._address = found
        return True

    def _on_netlink(self) -> None:
        """Discard the system's messages and check the local address, which shows what matters of the change."""
        assert self._netlink is not None
        try:
            while self._netlink.recv(READ_SIZE):
                pass
        except BlockingIOError:
            pass
        except OSError as error:  # ENOBUFS: messages were dropped because there were many; a check is due
            logger.debug("netlink: %s", error.strerror)
        if self._debounce is None:
            self._check_reported()

    def _check_reported(self) -> None:
        self._debounce = self._loop.call_later(DEBOUNCE_TIME, self._debounced)
        now = self._loop.time()
        if self._update_address():
            self._changed(NetworkChange.ADDRESS)
        elif now >= self._other_reported_at + CHECK_INTERVAL:
            self._other_reported_at = now
            self._changed(NetworkChange.OFF_ROUTE)

    def _debounced(self) -> None:
        self._debounce = None
        if self._update_address():  # changed by what was reported during the pause
            self._changed(NetworkChange.ADDRESS)


def _subscribe() -> socket.socket | None:
    """Return a socket on which Linux reports changes; None on other systems and in sandboxes without netlink."""
    if not hasattr(socket, "AF_NETLINK"):
        return None
    try:
        sock = unpatched.new_socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
    except OSError as error:
        logger.debug("netlink is not available, the network is only checked once a second: %s", error.strerror)
        return None
    try:
        sock.bind((0, _GROUPS))
    except OSError as error:
        sock.close()
        logger.debug("netlink is not available, the network is only checked once a second: %s", error.strerror)
        return None
    return sock
