"""The real datagram socket, on the loopback interface."""

import asyncio
import contextlib
import errno
import logging
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from quictunnel.transport import sockopts
from quictunnel.transport.engine import Address, Received, Transmit
from quictunnel.transport.udp import (
    MAX_PARTS,
    MAX_PAYLOAD,
    MAX_SEGMENTS,
    RECEIVE_DATAGRAMS,
    DatagramSocket,
    UdpSocket,
    wildcard,
)

LOOPBACKS = {"IPv4": ("127.0.0.1", 0), "IPv6": ("::1", 0)}
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as _sock:
    GRANTED = min(sockopts.enlarge_buffers(_sock, sockopts.BUFFER_BYTES))
# What fits into the socket's buffer before anybody reads; a fresh machine grants a twentieth of what is asked.
BURST = 1000 if GRANTED == sockopts.BUFFER_BYTES else 100
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs the offloads of Linux")


@pytest.fixture(params=LOOPBACKS)
def here(request: pytest.FixtureRequest) -> Address:
    return LOOPBACKS[request.param]


@contextlib.contextmanager
def pair(here: Address, *, gro: bool = True, gso: bool = True) -> Iterator[tuple[UdpSocket, UdpSocket]]:
    with contextlib.ExitStack() as stack:
        one, other = (UdpSocket.bind(here, gro=gro, gso=gso) for _ in range(2))
        stack.callback(one.close)
        stack.callback(other.close)
        yield one, other


async def collect(receiver: DatagramSocket, count: int) -> list[Received]:
    """Read until so many datagrams are there."""
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    got: list[Received] = []

    def on_readable() -> None:
        got.extend(receiver.receive())
        if len(split(got)) >= count:
            enough.set()

    receiver.attach(loop, on_readable)
    try:
        async with asyncio.timeout(10):
            await enough.wait()
    finally:
        receiver.detach()
    return got


def split(batch: list[Received]) -> list[bytes]:
    return [
        one.payload[offset : offset + one.segment]
        for one in batch
        for offset in range(0, len(one.payload), one.segment)
    ]


def numbered(count: int, size: int) -> list[bytes]:
    return [number.to_bytes(4, "big") * (size // 4) for number in range(count)]


@pytest.mark.parametrize("gro", [True, False], ids=["GRO", "no GRO"])
@pytest.mark.parametrize("gso", [True, False], ids=["GSO", "no GSO"])
async def test_a_large_burst_arrives_in_order(here: Address, *, gro: bool, gso: bool) -> None:
    with pair(here, gro=gro, gso=gso) as (one, other):
        datagrams = numbered(BURST, 1200)
        one.send([Transmit(datagrams, 1200, other.local_address)])
        got = await collect(other, BURST)
        assert split(got) == datagrams
        assert {received.address for received in got} == {one.local_address}
        assert one.counters.sent == other.counters.received == BURST
        if one.gso:
            assert one.counters.writes == -(-BURST // (MAX_PAYLOAD // 1200))
        else:
            assert one.counters.writes == BURST
        if other.gro and one.gso:
            assert other.counters.reads < 50
        elif not gro:
            assert other.counters.reads == BURST


@linux_only
def test_linux_has_both_offloads() -> None:
    with pair(("127.0.0.1", 0)) as (one, _):
        assert one.gro
        assert one.gso


async def test_parts_need_not_coincide_with_datagrams(here: Address) -> None:
    with pair(here) as (one, other):
        whole = bytes(range(256)) * 10
        parts = [whole[:1], whole[1:700], b"", whole[700:]]
        one.send([Transmit(parts, 1000, other.local_address)])
        assert split(await collect(other, 3)) == [whole[:1000], whole[1000:2000], whole[2000:]]


async def test_more_parts_than_one_call_takes(here: Address) -> None:
    with pair(here) as (one, other):
        whole = bytes(range(256)) * 8
        parts = [whole[offset : offset + 1] for offset in range(len(whole))]
        assert len(parts) > MAX_PARTS
        one.send([Transmit(parts, 1024, other.local_address)])
        assert split(await collect(other, 2)) == [whole[:1024], whole[1024:]]
        assert one.counters.writes == (1 if one.gso else 2)


@pytest.mark.parametrize("size", [4, 600, 1200, 9000, 60_000])
async def test_bursts_stay_within_segments_and_bytes(size: int) -> None:
    with pair(("127.0.0.1", 0)) as (one, other):
        datagrams = [*numbered(min(MAX_SEGMENTS + 3, GRANTED // (size + 800)), size), b"last"]
        one.send([Transmit(datagrams, size, other.local_address)])
        got = await collect(other, len(datagrams))
        assert split(got) == datagrams
        assert one.gso == (sys.platform == "linux")
        if one.gso:
            assert one.counters.writes == -(-len(datagrams) // min(MAX_SEGMENTS, MAX_PAYLOAD // size))
        assert (one.counters.dropped_oversize, one.counters.dropped_refused) == (0, 0)


async def test_a_call_brings_a_bounded_batch() -> None:
    with pair(("127.0.0.1", 0)) as (one, other):
        one.send([Transmit(numbered(150, 1200), 1200, other.local_address)])
        first = other.receive()
        assert RECEIVE_DATAGRAMS <= len(split(first)) < RECEIVE_DATAGRAMS + MAX_SEGMENTS
        rest = await collect(other, 150 - len(split(first)))
        assert split(first + rest) == numbered(150, 1200)
        assert other.receive() == []


async def test_an_empty_datagram_is_nothing(here: Address) -> None:
    with pair(here) as (one, other), socket.socket(one._sock.family, socket.SOCK_DGRAM) as plain:
        plain.sendto(b"", other.local_address)
        one.send([Transmit([b"x"], 1200, other.local_address)])
        assert [received.payload for received in await collect(other, 1)] == [b"x"]
        assert other.counters.received == 2


@pytest.mark.parametrize("gso", [True, False], ids=["GSO", "no GSO"])
async def test_oversize_datagrams_are_dropped_and_the_rest_goes_on(
    here: Address, caplog: pytest.LogCaptureFixture, *, gso: bool
) -> None:
    with pair(here, gso=gso) as (one, other):
        large = MAX_PAYLOAD + 21  # also more than IPv6 carries
        one.send(
            [
                Transmit([bytes(large)], large, other.local_address),
                Transmit([bytes(2 * large)], large, other.local_address),
                Transmit([b"fits"], 1200, other.local_address),
            ]
        )
        assert split(await collect(other, 1)) == [b"fits"]
        assert one.counters.dropped_oversize == 3
        assert one.gso == (gso and sys.platform == "linux")
        # Probing for the path's limit does this all the time: nothing that an operator should read.
        assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


async def test_a_peer_that_is_gone_raises_nothing(here: Address) -> None:
    with pair(here) as (one, other):
        gone = other.local_address
        other.close()
        for _ in range(3):
            one.send([Transmit([b"x" * 3000], 1200, gone)])
            assert one.receive() == []
        assert one.counters.sent == 9


@linux_only
async def test_icmp_errors_are_counted_and_never_raised() -> None:
    """An unconnected socket of Linux does not hear of them; a connected one stands in for other systems."""
    with pair(("127.0.0.1", 0)) as (one, other):
        one._sock.connect(other.local_address)
        gone = other.local_address
        other.close()
        one.send([Transmit([b"x"], 1200, gone)])
        assert one.receive() == []
        assert one.counters.errors_read == 1
        one.send([Transmit([b"x"], 1200, gone)])
        one.send([Transmit([b"x" * 3000], 1200, gone)])
        assert one.counters.dropped_refused == 3
        assert one.gso


@linux_only
async def test_an_impossible_address_costs_its_datagrams_only() -> None:
    """Port 0 can stand in a forged datagram, and gives the error of a missing offload."""
    with pair(("127.0.0.1", 0)) as (one, other):
        one.send([Transmit([b"x" * 3000], 1200, ("127.0.0.1", 0))])
        assert one.counters.dropped_refused == 3
        assert one.gso
        one.send([Transmit([b"x" * 3000], 1200, other.local_address)])
        assert len(split(await collect(other, 3))) == 3


@linux_only
async def test_a_refused_offload_is_remembered_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with pair(("127.0.0.1", 0)) as (one, other):
        so_no_check = 11  # without checksums the kernel refuses to segment (EINVAL), as it does for old cards
        one._sock.setsockopt(socket.SOL_SOCKET, so_no_check, 1)
        assert one.gso
        one.send([Transmit(numbered(10, 1200), 1200, other.local_address)])
        assert not one.gso
        one.send([Transmit(numbered(10, 1200), 1200, other.local_address)])
        assert split(await collect(other, 20)) == numbered(10, 1200) * 2
        assert one.counters.sent == one.counters.writes == 20
        assert len([record for record in caplog.records if "segmentation offload is off" in record.message]) == 1


@linux_only
async def test_datagrams_that_do_not_fit_are_dropped_and_counted() -> None:
    """A datagram socket of the same machine is full after a few, which a UDP socket on loopback never is."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    far.close()
    near.close()
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind("")  # an abstract name of the system's choice
    sender = UdpSocket(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), gro=False, gso=False)
    with contextlib.closing(sender), receiver:
        sender.send([Transmit([bytes(100 * 500)], 100, receiver.getsockname())] * 2)
        counters = sender.counters
        assert counters.sent + counters.dropped_full == 1000
        assert 0 < counters.sent < 500
        assert counters.dropped_refused == 0


@pytest.mark.parametrize(
    ("number", "counter"),
    [(errno.ENOBUFS, "dropped_full"), (errno.EPERM, "dropped_refused"), (errno.ENETUNREACH, "dropped_refused")],
)
async def test_errors_that_cannot_be_had_here(number: int, counter: str) -> None:
    """A stand-in for the system's socket, because these need a firewall, a dead route or a busy card."""

    class Refusing(socket.socket):
        calls = 0

        def sendto(self, *_: object) -> int:
            self.calls += 1
            raise OSError(number, "refused")

        sendmsg = sendto

    sock = Refusing(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    with contextlib.closing(UdpSocket(sock)) as one:
        one.send([Transmit([bytes(3000)], 1200, ("127.0.0.1", 9)), Transmit([b"x"], 1200, ("127.0.0.1", 9))])
        assert getattr(one.counters, counter) == 4
        assert sock.calls == 1 or counter != "dropped_full"  # where one does not fit, the rest is not tried
        assert one.counters.sent == 0


def test_a_loop_that_cannot_watch_sockets_reads_by_a_task() -> None:
    class Blind(asyncio.SelectorEventLoop):
        def add_reader(self, *_: object) -> None:
            raise NotImplementedError

    async def main() -> None:
        with pair(("127.0.0.1", 0), gro=False) as (one, other):
            for _ in range(2):  # attached again after having been detached
                one.send([Transmit(numbered(150, 1200), 1200, other.local_address)])
                assert split(await collect(other, 150)) == numbered(150, 1200)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with asyncio.Runner(loop_factory=Blind) as runner:
        runner.run(main())


def test_a_reader_that_fails_is_reported_and_called_again() -> None:
    """Also where it is called by a task, which a failure would end."""

    class Blind(asyncio.SelectorEventLoop):
        def add_reader(self, *_: object) -> None:
            raise NotImplementedError

    async def main() -> None:
        loop, called, reported = asyncio.get_running_loop(), asyncio.Queue[int](), []
        loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))

        def on_readable() -> None:
            called.put_nowait(len(other.receive()))
            raise ValueError("a fault of ours")

        with pair(("127.0.0.1", 0), gro=False) as (one, other):
            other.attach(loop, on_readable)
            for _ in range(2):
                one.send([Transmit([b"x"], 1200, other.local_address)])
                async with asyncio.timeout(10):
                    assert await called.get() == 1
        await asyncio.sleep(0)
        assert reported == ["a fault of ours"] * 2

    with asyncio.Runner(loop_factory=Blind) as runner:
        runner.run(main())


def test_detach_and_close_may_be_repeated() -> None:
    one = UdpSocket.bind(("127.0.0.1", 0))
    one.detach()
    one.close()
    one.close()


def test_addresses_have_one_form(here: Address) -> None:
    """The results of ``getaddrinfo`` and ``local_address`` and the address that a receiver sees are the same."""
    with pair(here) as (one, other):
        _, _, _, _, resolved = socket.getaddrinfo(here[0], one.local_address[1], type=socket.SOCK_DGRAM)[0]
        one.send([Transmit([b"x"], 1200, other.local_address)])
        (received,) = other.receive()
        assert received.address == one.local_address == resolved


def test_an_ipv6_socket_leaves_ipv4_alone() -> None:
    with contextlib.closing(UdpSocket.bind(("::", 0))) as six:
        four = UdpSocket.bind(("0.0.0.0", six.local_address[1]))
        four.close()
    assert wildcard(("::1", 1, 0, 0)) == ("::", 0)
    assert wildcard(("127.0.0.1", 1)) == ("0.0.0.0", 0)


@linux_only
@pytest.mark.parametrize("gso", [True, False])
def test_a_socket_for_both_families(gso: bool) -> None:
    """Peers of either are heard and answered, in one form of address, and nothing is fragmented."""
    with contextlib.closing(UdpSocket.bind(("::", 0), dual=True, gso=gso)) as both:
        assert both.is_dual
        assert both._sock.getsockopt(socket.IPPROTO_IP, 10) == 3
        assert both._sock.getsockopt(socket.IPPROTO_IPV6, 23) == 3
        port = both.local_address[1]
        for here, heard in (("127.0.0.1", "::ffff:127.0.0.1"), ("::1", "::1")):
            with contextlib.closing(UdpSocket.bind((here, 0))) as one:
                assert not one.is_dual
                one.send([Transmit([b"x"], 1200, (here, port))])
                assert select.select([both._sock], [], [], 5)[0]
                (received,) = both.receive()
                assert received.address[0] == heard
                both.send([Transmit([b"y" * 2500], 1000, received.address)])
                assert select.select([one._sock], [], [], 5)[0]
                assert b"".join(answer.payload for answer in one.receive()) == b"y" * 2500


def test_a_busy_address_is_its_owners_problem() -> None:
    with contextlib.closing(UdpSocket.bind(("127.0.0.1", 0))) as one, pytest.raises(OSError, match="in use"):
        UdpSocket.bind(one.local_address)


def test_small_buffers_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    sockopts._report_small_buffers.cache_clear()
    caplog.set_level(logging.INFO)
    absurd = 1 << 30  # the largest the option takes before the kernel's doubling overflows it
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        received, sent = sockopts._enlarge(sock, 0, socket.SO_RCVBUF, absurd), 0
        sockopts._report_small_buffers(absurd, received, sent)
        sockopts._report_small_buffers(absurd, received, sent)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    if sys.platform == "linux":
        assert "sysctl -w net.core.rmem_max" in record.getMessage()


def test_buffers_are_as_large_as_the_system_allows() -> None:
    with contextlib.closing(UdpSocket.bind(("127.0.0.1", 0))) as one:
        ordinary = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with ordinary:
            default = ordinary.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert one._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > default


@linux_only
def test_the_dont_fragment_bit_is_set(here: Address) -> None:
    with contextlib.closing(UdpSocket.bind(here)) as one:
        level, option, probe = (
            (socket.IPPROTO_IP, 10, 3) if len(one.local_address) == 2 else (socket.IPPROTO_IPV6, 23, 3)
        )
        assert one._sock.getsockopt(level, option) == probe
