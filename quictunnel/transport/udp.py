"""UDP sockets that read and write in batches: interface and implementation.

Linux joins received datagrams (UDP_GRO) and splits sent ones (UDP_SEGMENT), so that one system call moves up to 64
of them; elsewhere, and where the kernel or a network card refuses, one call moves one. There are no timers and no
retries: a datagram that cannot be sent now is dropped and counted, as a router would, and errors that the network
causes are not raised.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

from quictunnel.shared import unpatched
from quictunnel.transport import descriptors, sockopts
from quictunnel.transport.engine import Received, Transmit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from quictunnel.transport.engine import Address

logger = logging.getLogger(__name__)

# A batch ends with the read that reaches this. A joined read brings at most 64, so a batch stays below 128
# datagrams: 5 ms of the slowest engine's time, which timers and other sockets can wait.
RECEIVE_DATAGRAMS = 64
# No datagram, nor several that were joined, is longer: the length field of UDP has 16 bits.
READ_BYTES = 65_535
# Largest UDP payload over IPv4: 65,535 minus 20 bytes of IP and 8 of UDP. IPv6 could carry 20 more.
MAX_PAYLOAD = 65_507
# UDP_MAX_SEGMENTS of Linux before 6.9; later ones take 128 and gain little by it.
MAX_SEGMENTS = 64
# UIO_MAXIOV, the most parts that one sendmsg takes.
MAX_PARTS = 1024
# Pause after a failed read where a task does the reading, so that a dead interface cannot keep it spinning.
READ_PAUSE = 0.01

_FULL = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS})
# What a kernel without UDP_SEGMENT, or a network card without checksum offload (EIO), says to a joined write.
_OFFLOAD_REFUSED = frozenset({errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP})
_ANCILLARY_BYTES = 64  # an int with its header takes 24; the rest is room for what the system may add
_SEGMENT = struct.Struct("=H")


LARGEST_DATAGRAM = 32_000
"""UDP payload bytes to which a path's limit is searched: jumbo frames and more (loopback carries 64 KiB). Two of
them still fit one system call, and one lost datagram is not half of a small window."""


@dataclass(slots=True)
class UdpCounters:
    """Counts since the socket was opened."""

    received: int = 0
    """Datagrams read."""
    sent: int = 0
    """Datagrams that the kernel accepted."""
    reads: int = 0
    """Reads that returned datagrams."""
    writes: int = 0
    """Writes that the kernel accepted."""
    dropped_full: int = 0
    """Datagrams dropped because the send buffer or the interface's queue was full."""
    dropped_oversize: int = 0
    """Datagrams larger than the interface carries."""
    dropped_refused: int = 0
    """Datagrams that the system refused to send: no route, forbidden by a firewall, no such interface."""
    errors_read: int = 0
    """Errors of reads: some systems report ICMP messages of the peer that way."""


class DatagramSocket(Protocol):
    """Socket of an endpoint. ``tests/simnet`` has one without an operating system."""

    @property
    def local_address(self) -> Address: ...

    def attach(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[], None]) -> None:
        """Call ``on_readable`` once per iteration of the loop while datagrams are left to receive."""

    def detach(self) -> None:
        """Undo :meth:`attach`. May be called again."""

    def receive(self) -> list[Received]:
        """Return datagrams that have arrived, up to a bound, or an empty list. Payloads are never empty. Does not
        wait, and raises no error that the network causes."""

    def send(self, transmits: Iterable[Transmit]) -> None:
        """Send or drop all datagrams. Does not wait, and raises no error that the network causes."""

    def close(self) -> None:
        """Detach and close the socket. May be called again."""


def wildcard(peer: Address) -> Address:
    """Return the wildcard address, with any port, in the address family of ``peer``."""
    return ("::", 0) if ":" in peer[0] else ("0.0.0.0", 0)


class UdpSocket:
    """UDP socket of the operating system.

    Peers' addresses have the form of ``getaddrinfo`` for the socket's family, because an engine compares them. An
    IPv6 socket therefore speaks IPv6 only. A server's may serve both families: each peer's address has one form
    there too."""

    def __init__(
        self, sock: socket.socket, *, gro: bool = True, gso: bool = True, forbids_fragments: bool = False
    ) -> None:
        """Take ownership of a bound socket.

        Args:
            sock: the socket.
            gro: use UDP_GRO if the system has it.
            gso: use UDP_SEGMENT if the system has it.
            forbids_fragments: the system does not fragment its datagrams, so that the path MTU can be discovered.
        """
        sock.setblocking(False)
        descriptors.set_close_on_fork(sock)
        self._sock = sock
        self._gro = gro and sockopts.enable_gro(sock)
        self._gso = gso and sockopts.supports_gso(sock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader: asyncio.Task[None] | None = None
        self._first: tuple[bytes, Address] | None = None
        self.largest_datagram = LARGEST_DATAGRAM if forbids_fragments else 0
        """Value for ``EngineSettings.largest_datagram``."""
        self._local_address: Address = sock.getsockname()
        self.counters = UdpCounters()

    @classmethod
    def bind(
        cls,
        address: Address,
        *,
        gro: bool = True,
        gso: bool = True,
        buffer: int = sockopts.BUFFER_BYTES,
        dual: bool = False,
    ) -> Self:
        """Open a socket at a numeric address. ``dual``: an IPv6 socket speaks IPv4 as well, where the system
        supports it. Raises OSError as ``socket.bind`` does."""
        sock = unpatched.new_socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if sock.family == socket.AF_INET6:
                sockopts.separate_families(sock, not dual)
            sockopts.enlarge_buffers(sock, buffer)
            forbids_fragments = sockopts.forbid_fragments(sock)
            sock.bind(address)
            return cls(sock, gro=gro, gso=gso, forbids_fragments=forbids_fragments)
        except BaseException:
            sock.close()
            raise

    @classmethod
    def adopt(cls, sock: socket.socket) -> Self:
        """Return the UdpSocket of a socket that :meth:`bind` has opened, possibly in another process."""
        return cls(sock, forbids_fragments=sockopts.forbid_fragments(sock))

    def duplicate(self) -> socket.socket:
        """Return a duplicate of the socket for :meth:`adopt`, which stays open when this one is closed."""
        return self._sock.dup()

    @property
    def local_address(self) -> Address:
        return self._local_address

    @property
    def is_dual(self) -> bool:
        """Return True if the socket speaks IPv4 and IPv6; IPv4 peers then have addresses like
        ``::ffff:192.0.2.1``."""
        return sockopts.is_dual(self._sock)

    @property
    def gro(self) -> bool:
        """Return True if one read may return several datagrams."""
        return self._gro

    @property
    def gso(self) -> bool:
        """Return True if one write may carry several datagrams. False for good once the system has refused one."""
        return self._gso

    def attach(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[], None]) -> None:
        assert self._loop is None, "attached already"
        self._loop = loop
        try:
            loop.add_reader(self._sock, on_readable)
        except NotImplementedError:  # the Proactor loop of Windows cannot watch a socket
            self._reader = loop.create_task(self._read(loop, on_readable))

    def detach(self) -> None:
        loop, self._loop = self._loop, None
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        elif loop is not None and not loop.is_closed():
            loop.remove_reader(self._sock)

    def close(self) -> None:
        self.detach()
        descriptors.clear_close_on_fork(self._sock)
        self._sock.close()

    async def _read(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[], None]) -> None:
        """Replace ``add_reader`` where the loop lacks it: wait for a datagram, then call the reader. Runs until
        :meth:`detach`."""
        while True:
            try:
                self._first = await loop.sock_recvfrom(self._sock, READ_BYTES)
            except OSError:  # Windows reports ICMP "port unreachable" as a reset of the socket
                self.counters.errors_read += 1
                await asyncio.sleep(READ_PAUSE)
                continue
            # As a reader's callback: one that fails is the loop's to report, and no end of the reading. The pause
            # lets it run; a read that finds something at once does not yield to the loop.
            loop.call_soon(on_readable)
            await asyncio.sleep(0)

    def receive(self) -> list[Received]:
        batch: list[Received] = []
        read = self._read_joined if self._gro else self._read_one
        counters = self.counters
        count = 0
        while count < RECEIVE_DATAGRAMS:
            try:
                received = read()
            except BlockingIOError:
                break
            except OSError:  # an ICMP message about an earlier send; whether the peer lives, timers decide
                counters.errors_read += 1
                count += 1
                continue
            datagrams = -(-len(received.payload) // received.segment) or 1
            count += datagrams
            counters.reads += 1
            counters.received += datagrams
            if received.payload:
                batch.append(received)
        return batch

    def _read_one(self) -> Received:
        if self._first is not None:
            (payload, address), self._first = self._first, None
        else:
            payload, address = self._sock.recvfrom(READ_BYTES)
        return Received(payload, len(payload) or 1, address)

    def _read_joined(self) -> Received:
        payload, ancillary, _, address = self._sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES)
        segment = len(payload) or 1
        for level, kind, value in ancillary:
            if level == sockopts.SOL_UDP and kind == sockopts.UDP_GRO:
                segment = int.from_bytes(value[:4], sys.byteorder)
        return Received(payload, segment, address)

    def send(self, transmits: Iterable[Transmit]) -> None:
        bursts = (burst for transmit in transmits for burst in _bursts(transmit))
        for burst in bursts:
            write = self._write_joined if self._gso and _count(burst) > 1 else self._write_singly
            if not write(burst):
                self.counters.dropped_full += sum(map(_count, bursts))  # what is left of the generator

    def _write_joined(self, burst: Transmit) -> bool:
        """Send a burst with one call. Return False if the system's buffer is full."""
        counters = self.counters
        count = _count(burst)
        ancillary = [(sockopts.SOL_UDP, sockopts.UDP_SEGMENT, _SEGMENT.pack(burst.segment))]
        try:
            self._sock.sendmsg(burst.parts, ancillary, 0, burst.address)
        except OSError as error:
            if error.errno in _FULL:
                counters.dropped_full += count
                return False
            if error.errno not in _OFFLOAD_REFUSED and error.errno != errno.EMSGSIZE:
                counters.dropped_refused += count
                return True
            sent = counters.sent
            room = self._write_singly(burst)
            # The same numbers mean "too large for this interface" or "no such peer"; only if every datagram
            # leaves on its own was the joining at fault. Otherwise any invalid source address would end it.
            if error.errno in _OFFLOAD_REFUSED and counters.sent - sent == count:
                self._gso = False
                logger.info("UDP segmentation offload is off: the system refused it (%s)", error.strerror)
            return room
        counters.writes += 1
        counters.sent += count
        return True

    def _write_singly(self, burst: Transmit) -> bool:
        """Send a burst with one call per datagram. Return False if the system's buffer is full."""
        counters = self.counters
        segment = burst.segment
        payload = burst.parts[0] if len(burst.parts) == 1 else b"".join(burst.parts)
        for offset in range(0, len(payload), segment):
            try:
                self._sock.sendto(payload[offset : offset + segment], burst.address)
            except OSError as error:
                if error.errno in _FULL:
                    counters.dropped_full += -(-(len(payload) - offset) // segment)
                    return False
                if error.errno == errno.EMSGSIZE:
                    self._drop_oversize(min(segment, len(payload) - offset))
                else:
                    counters.dropped_refused += 1
                continue
            counters.writes += 1
            counters.sent += 1
        return True

    def _drop_oversize(self, size: int) -> None:
        """Count a datagram that was too large: usually a probe of the path MTU, some of which are expected to
        fail."""
        self.counters.dropped_oversize += 1
        logger.debug("a UDP datagram of %d bytes is too large for the network interface", size)


def _count(burst: Transmit) -> int:
    """Return the number of datagrams in a burst."""
    return -(-sum(map(len, burst.parts)) // burst.segment)


def _bursts(transmit: Transmit) -> Iterator[Transmit]:
    """Split a transmit into bursts for one call each."""
    parts, segment, address = transmit
    size = sum(map(len, parts))
    limit = max(1, min(MAX_SEGMENTS, MAX_PAYLOAD // segment)) * segment
    if size <= limit and len(parts) <= MAX_PARTS:
        yield transmit
        return
    whole = b"".join(parts)
    for offset in range(0, size, limit):
        yield Transmit((whole[offset : offset + limit],), segment, address)
