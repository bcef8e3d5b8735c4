"""Notices that this machine's network changed, or that time passed without it.

Linux says so at once (netlink, rtnetlink(7)); everywhere, a look once a second finds what no system reports:
another local address on the way to the edge, and a clock that went on while this process did not (a laptop that
slept, a container that was frozen). What to do about it is the owner's business.
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
"""Seconds between looks."""
JUMP: Final = 5.0
"""Seconds beyond the time between two looks that count as sleep: longer than a busy machine keeps a process
waiting."""
SETTLE_TIME: Final = 0.02
"""Seconds between two looks because of what the system reports: containers that come and go beside this one make
it report a lot, and one change is several messages."""
READ: Final = 64 * 1024

# linux/rtnetlink.h: links, and the addresses and routes of both families.
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400


class Change(enum.Enum):
    """A change of this machine's network."""

    MOVED = "this machine has another address"
    """On the way to the edge; what is bound to the old one is of no use any more."""
    STIRRED = "something about this machine's network changed"
    """Nothing that can be seen to concern the edge, but what failed before may work now. Once a second at most."""
    SLEPT = "this process slept"


def _clock() -> float:
    """Seconds that also count while the machine sleeps, where the system has such a clock."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.time() if boottime is None else time.clock_gettime(boottime)


def source_address(peer: Address) -> str | None:
    """The local address that datagrams to ``peer`` leave from now; None when there is no way to it."""
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    try:
        with unpatched.new_socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(peer)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return None


class NetworkMonitor:
    """Calls ``changed`` on the running loop, until :meth:`close`."""

    def __init__(
        self,
        changed: Callable[[Change], None],
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
        self._looked_at = clock()
        self._stirred_at = float("-inf")
        self._reaction: asyncio.TimerHandle | None = None
        self._netlink = _subscribe()
        if self._netlink is not None:
            try:
                self._loop.add_reader(self._netlink, self._reported)
            except NotImplementedError:
                self._netlink.close()
                self._netlink = None
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check)

    def towards(self, peer: Address) -> None:
        """Watch the route to this edge: remember the local address with which it is reached."""
        self._peer = peer
        self._address = self._source(peer)

    def close(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._reaction is not None:
            self._reaction.cancel()
        if self._netlink is not None:
            self._loop.remove_reader(self._netlink)
            self._netlink.close()
            self._netlink = None

    def _check(self) -> None:
        self._timer = self._loop.call_later(CHECK_INTERVAL, self._check)
        now = self._clock()
        slept, self._looked_at = now - self._looked_at > CHECK_INTERVAL + JUMP, now
        if self._has_moved():
            self._changed(Change.MOVED)
        elif slept:
            self._changed(Change.SLEPT)

    def _has_moved(self) -> bool:
        if self._peer is None:
            return False
        before, found = self._address, self._source(self._peer)
        if found is None or found == before:
            return False  # no way at all is nothing to go on from
        self._address = found
        return True

    def _reported(self) -> None:
        """The system said that something changed; what it is, a look finds out."""
        assert self._netlink is not None
        try:
            while self._netlink.recv(READ):
                pass
        except BlockingIOError:
            pass
        except OSError as error:  # ENOBUFS: it said more than fits, so there is something to look at
            logger.debug("netlink: %s", error.strerror)
        if self._reaction is None:
            self._react()

    def _react(self) -> None:
        self._reaction = self._loop.call_later(SETTLE_TIME, self._settled)
        now = self._loop.time()
        if self._has_moved():
            self._changed(Change.MOVED)
        elif now >= self._stirred_at + CHECK_INTERVAL:
            self._stirred_at = now
            self._changed(Change.STIRRED)

    def _settled(self) -> None:
        self._reaction = None
        if self._has_moved():  # by what was reported meanwhile
            self._changed(Change.MOVED)


def _subscribe() -> socket.socket | None:
    """A socket on which Linux reports changes; None elsewhere, and in sandboxes that have none."""
    if not hasattr(socket, "AF_NETLINK"):
        return None
    try:
        sock = unpatched.new_socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
    except OSError as error:
        logger.debug("no netlink here, the network is looked at once a second: %s", error.strerror)
        return None
    try:
        sock.bind((0, _GROUPS))
    except OSError as error:
        sock.close()
        logger.debug("no netlink here, the network is looked at once a second: %s", error.strerror)
        return None
    return sock
