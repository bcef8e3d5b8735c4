"""A lab from start to end: two namespaces, the WAN between them, and the certainty that nothing is left."""

from __future__ import annotations

import atexit
import contextlib
import ipaddress
import itertools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from tests.netlab import build, namespace
from tests.netlab.link import DEFAULTS, Direction, Link, Settings
from tests.netlab.namespace import DEVICE, Host, ip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

CLIENT_NET, EDGE_ADDRESS = ipaddress.IPv4Network("198.18.1.0/24"), "198.18.2.1"
"""RFC 2544 sets 198.18.0.0/15 aside for tests; the namespaces keep it from anything else on the machine."""
CLIENT_NET6, EDGE_ADDRESS6 = ipaddress.IPv6Network("fd18:1::/64"), "fd18:2::1"
DEVICE_QUEUE = 10_000
"""Packets that a host's device holds for the WAN to fetch, so that drops happen where they are counted. The
kernel's default of 500 is overrun by a dozen UDP_SEGMENT sends in a row; wan.c knows this number too."""
WAN_END_SECONDS = 5.0

_serials = itertools.count(1)


class LabError(Exception):
    """The lab cannot be started here, or is not running."""


def missing() -> str | None:
    """Return the reason why a lab cannot run here, as a clause for a skip message; None if it can."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "not root"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    if shutil.which("ip") is None:
        return "no ip command (iproute2)"
    if build.compiler() is None:
        return "no C compiler (cc, or what CC names)"
    try:
        namespace.delete_leftovers()
        name = namespace.namespace_name(0, "edge")
        ip("netns", "add", name)
        namespace.delete(name)
    except OSError as error:
        return f"no network namespaces ({error})"
    return None


class Lab:
    """A client and an edge with a WAN between them, as a context manager.

        with Lab(delay_ms=25, rate_mbit=100) as lab:
            server = lab.edge.popen(["iperf3", "-s", "-1"])
            lab.client.run(["iperf3", "-c", lab.edge.address])
            lab.link.set("up", loss=0.01)

    The settings are those of both directions; they may be changed at any time on ``link``.
    """

    def __init__(self, *, nat: bool = False, **settings: Unpack[Settings]) -> None:
        self._nat = nat
        self._settings = DEFAULTS | settings
        self._serial = next(_serials)
        self._addresses = itertools.islice(CLIENT_NET.hosts(), CLIENT_NET.num_addresses - 2)
        self._addresses6 = itertools.islice(CLIENT_NET6.hosts(), CLIENT_NET.num_addresses - 2)
        self._owner = os.getpid()
        self._stack = contextlib.ExitStack()
        self._link: Link | None = None
        self.client = self._host("client", str(next(self._addresses)), str(next(self._addresses6)))
        self.edge = self._host("edge", EDGE_ADDRESS, EDGE_ADDRESS6)
        self._wan: subprocess.Popen[bytes] | None = None

    def _host(self, role: str, address: str, address6: str) -> Host:
        return Host(namespace.namespace_name(self._serial, role), address, address6)

    @property
    def link(self) -> Link:
        """The WAN between the two."""
        if self._link is None:
            raise LabError("the lab is not running")
        return self._link

    @property
    def wan_pid(self) -> int | None:
        """The WAN's process, for those who measure what it costs; None if it does not run."""
        return self._wan.pid if self._wan and self._wan.poll() is None else None

    def __enter__(self) -> Self:
        namespace.delete_leftovers()
        atexit.register(self.close)
        try:
            for host in (self.client, self.edge):
                self._stack.callback(namespace.delete, host.name)
                ip("netns", "add", host.name)
                self._stack.callback(host.end_processes)
            self._link = self._start_wan()
            for host in (self.client, self.edge):
                self._configure(host)
            self._link.set("both", **self._settings)
            if self._nat:
                self._link.set_nat(True)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything that was started in the lab, then the lab; a second time does nothing."""
        if os.getpid() != self._owner:
            return  # a forked child runs its parent's exit functions, but this lab is not its own
        atexit.unregister(self.close)
        self._link = None
        self._stack.close()

    def _start_wan(self) -> Link:
        program = build.wan_program()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._stack.callback(ours.close)
        with theirs:
            paths = [str(namespace.NETNS / host.name) for host in (self.client, self.edge)]
            arguments = [*paths, str(theirs.fileno()), str(os.getpid())]
            self._wan = subprocess.Popen(
                [str(program), *arguments], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        self._stack.callback(self._end_wan)
        link = Link(ours)
        link.handshake()
        return link

    def _end_wan(self) -> None:
        assert self._wan is not None
        self._wan.terminate()
        try:
            self._wan.wait(WAN_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._wan.kill()
            self._wan.wait()

    def _configure(self, host: Host) -> None:
        """Both families, on a link without neighbours: everything that is not the host itself is over the WAN."""
        lines = [
            "link set lo up",
            f"link set {DEVICE} txqueuelen {DEVICE_QUEUE} addrgenmode none up",
            f"address add {host.address}/32 dev {DEVICE}",
            f"address add {host.address6}/128 dev {DEVICE} nodad",
            f"route add default dev {DEVICE}",
            f"-6 route add default dev {DEVICE}",
        ]
        for line in lines:
            ip("-netns", host.name, *line.split())

    def move_client(self, new_address: str | None = None) -> None:
        """Give the client another address, as when it changes networks; by default the next free ones.

        Without an argument both families move, else the family of ``new_address``. The old address is gone:
        what is bound to it can no longer send, and what arrives for it is dropped.
        """
        if new_address is None:
            self._move4(str(next(self._addresses)))
            self._move6(str(next(self._addresses6)))
        elif ipaddress.ip_address(new_address).version == 4:
            self._move4(new_address)
        else:
            self._move6(new_address)

    def _move4(self, address: str) -> None:
        # First the new one: with its last IPv4 address a device loses its routes.
        ip("-netns", self.client.name, "address", "add", f"{address}/32", "dev", DEVICE)
        ip("-netns", self.client.name, "address", "del", f"{self.client.address}/32", "dev", DEVICE)
        self.client.address = address

    def _move6(self, address: str) -> None:
        ip("-netns", self.client.name, "address", "add", f"{address}/128", "dev", DEVICE, "nodad")
        ip("-netns", self.client.name, "address", "del", f"{self.client.address6}/128", "dev", DEVICE)
        self.client.address6 = address

    def nat_rebind(self) -> None:
        """Have every UDP flow of the client come from another port; see :meth:`Link.nat_rebind`."""
        self.link.nat_rebind()

    def blackout(self, direction: Direction = "both") -> contextlib.AbstractContextManager[None]:
        """A black hole for the length of a ``with`` block."""
        return _blackout(self.link, direction)


@contextlib.contextmanager
def _blackout(link: Link, direction: Direction) -> Iterator[None]:
    link.set(direction, blackhole=True)
    try:
        yield
    finally:
        link.set(direction, blackhole=False)
