"""The link between the hosts as tests see it: what can be set, what is counted, and the control channel."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, get_args

if TYPE_CHECKING:
    import socket

Direction = Literal["up", "down", "both"]
"""``up`` is from the client to the edge."""

CONTROL_SECONDS = 10.0
"""For the answer to a command, which takes microseconds: longer means a WAN that hangs or is starved."""
REPLY_MAX = 4096


class WanGoneError(Exception):
    """The WAN ended or no longer answers."""


class Settings(TypedDict, total=False):
    """Settings of one direction of the link; a setting that is not named stays as it is. Sizes are of IP
    packets."""

    delay_ms: float
    """Delay in one direction."""
    jitter_ms: float
    """Added to the delay of each packet, evenly between 0 and this."""
    reorder: bool
    """True if jitter lets packets overtake each other; if not, they queue up behind the late one."""
    rate_mbit: float | None
    """10^6 bits a second; None: as fast as the machine can."""
    queue_ms: float | None
    """Drop-tail bound of the queue before the rate limit, in time to send it; None: no such bound."""
    queue_bytes: int | None
    """The same in bytes; with both, whichever is reached first. Neither does anything without a rate."""
    loss: float
    """A share, 0 to 1, like the three that follow."""
    duplicate: float
    corrupt: float
    """Share of packets in which one bit of the UDP or TCP payload is flipped; the receiver's kernel finds a
    wrong checksum."""
    corrupt_fixed: float
    """Share of packets in which one bit is flipped and the checksum corrected, so that the application gets it."""
    mtu: int | None
    """Larger packets vanish without a word: a path with a smaller MTU and no ICMP."""
    blackhole: bool
    """Nothing arrives any more, what is in flight neither; both directions: an unplugged cable."""
    seed: int
    """Begins the direction's random draws anew: the same packets then meet the same fate."""


DEFAULTS = Settings(queue_ms=100.0, seed=1)
"""Settings of a fresh link that are not zero. 100 ms of queue: what home routers are found to have, and above
one bandwidth-delay product of the links that tests use, so that one TCP can fill them."""

_SHARES = frozenset({"loss", "duplicate", "corrupt", "corrupt_fixed"})


@dataclass(frozen=True, slots=True)
class Counters:
    """Counters of one direction, in packets unless the name says bytes. Multicast does not cross the WAN and is
    not counted.

    ``received + duplicated`` is always the sum of ``delivered``, ``held`` and everything that was dropped.
    """

    received: int
    received_bytes: int
    delivered: int
    delivered_bytes: int
    lost: int
    duplicated: int
    corrupted: int
    reordered: int
    """Delivered after one that was sent later."""
    queue_dropped: int
    blackholed: int
    too_big: int
    nat_dropped: int
    """Came for a port that the NAT does not know (any more)."""
    undeliverable: int
    """The receiving device was down."""
    held: int
    """In the queue or on the way, now."""
    held_bytes: int


@dataclass(frozen=True, slots=True)
class LinkStats:
    """Both directions at one moment, counted from the start of the lab."""

    up: Counters
    down: Counters


def _wire_value(name: str, value: float | None) -> str:
    number = 0.0 if value is None else float(value)
    if not math.isfinite(number) or number < 0 or (name in _SHARES and number > 1):
        raise ValueError(f"{name}={value!r} is not possible")
    return repr(number)


def parse_stats(words: list[str]) -> LinkStats:
    """Read the answer to ``stats``: the counters of ``up``, then those of ``down``."""
    names, values = words[::2], [int(value) for value in words[1::2]]
    count = len(fields(Counters))
    if names != [field.name for field in fields(Counters)] * 2:
        raise WanGoneError(f"the WAN answered in another tongue: {words}")
    return LinkStats(Counters(*values[:count]), Counters(*values[count:]))


class Link:
    """The running WAN. Every method returns after the change has taken effect; any thread may call."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._nat = False
        control.settimeout(CONTROL_SECONDS)

    def set(self, direction: Direction = "both", **changes: Unpack[Settings]) -> None:
        """Change a direction or both: ``link.set("up", loss=0.01, delay_ms=25)``."""
        if direction not in get_args(Direction):
            raise ValueError(f"no direction {direction!r}")
        if unknown := changes.keys() - Settings.__annotations__.keys():
            raise TypeError(f"a link has no {', '.join(sorted(unknown))}")
        words = [f"{name} {_wire_value(name, value)}" for name, value in changes.items()]  # type: ignore[arg-type]  # items() of a TypedDict are objects
        self._ask(" ".join(["set", direction, *words]))

    def stats(self) -> LinkStats:
        """The counters of both directions, of one moment."""
        return parse_stats(self._ask("stats"))

    def set_nat(self, on: bool, *, idle_ms: float | None = None) -> None:
        """Translate the UDP source ports of the client, as a home router does.

        Packets from the edge then only arrive for ports that the client has sent from, and with ``idle_ms``
        only if it has done so within that time.
        """
        self._ask(f"nat {int(on)} {_wire_value('idle_ms', idle_ms)}")
        self._nat = on

    def nat_rebind(self) -> None:
        """Forget the NAT's mappings: every flow goes on from another port, and packets for the old one vanish.

        Without a NAT it is switched on, which the edge sees as the same thing.
        """
        if not self._nat:
            self.set_nat(True)
        self._ask("rebind")

    def handshake(self) -> None:
        """Wait until the WAN has made its devices."""
        self._read_reply()

    def _ask(self, command: str) -> list[str]:
        with self._lock:
            try:
                self._control.send(command.encode())
            except OSError as error:
                raise WanGoneError(f"the WAN is gone: {error}") from error
            return self._read_reply()

    def _read_reply(self) -> list[str]:
        try:
            reply = self._control.recv(REPLY_MAX).decode()
        except OSError as error:
            raise WanGoneError(f"the WAN does not answer: {error!r}") from error
        word, *rest = reply.split() or ["nothing"]
        if word == "error":
            raise ValueError(reply)
        if word != "ok":
            raise WanGoneError("the WAN has ended; its standard error says why")
        return rest
