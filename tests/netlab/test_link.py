"""Tests of each impairment of the link, seen from sockets of this process in the two hosts."""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.netlab import Counters, Lab
    from tests.netlab.fixture import StartLab

pytestmark = pytest.mark.alone

PORT = 4433
WAIT_SECONDS = 10.0
RCVBUF = 32 * 2**20  # holds every datagram of a test, so that only the link loses any


class Pair:
    """A UDP socket in each host; ``up`` goes from the client's to the edge's."""

    def __init__(self, lab: Lab, client: socket.socket, edge: socket.socket) -> None:
        self.lab, self.client, self.edge = lab, client, edge

    def send_up(self, payload: bytes) -> None:
        self.client.sendto(payload, (self.lab.edge.address, PORT))

    def receive_until(self, last: bytes) -> list[bytes]:
        """Return the payloads that the edge receives before ``last``."""
        found = []
        while (payload := self.edge.recv(65536)) != last:
            found.append(payload)
        return found

    def flush(self) -> list[bytes]:
        """Everything that is still on its way up: an undisturbed packet sent last comes last."""
        self.lab.link.set(loss=0, duplicate=0, corrupt=0, corrupt_fixed=0, reorder=False)
        self.send_up(b"last")
        return self.receive_until(b"last")

    def round_trip(self, payload: bytes = b"ping") -> tuple[float, tuple[str, int]]:
        """Send an echo; return the seconds that it took, and the address from which the edge saw it come."""
        begun = time.perf_counter()
        self.send_up(payload)
        heard, address = self.edge.recvfrom(65536)
        self.edge.sendto(heard, address)
        assert self.client.recv(65536) == payload
        return time.perf_counter() - begun, address


@contextlib.contextmanager
def udp_pair(lab: Lab) -> Iterator[Pair]:
    with (
        lab.client.socket(bind=("0.0.0.0", 0)) as client,
        lab.edge.socket(bind=("0.0.0.0", PORT)) as edge,
    ):
        for sock in (client, edge):
            sock.settimeout(WAIT_SECONDS)
            sock.setsockopt(socket.SOL_SOCKET, 33, RCVBUF)  # SO_RCVBUFFORCE
        yield Pair(lab, client, edge)


@pytest.fixture
def pair(netlab: StartLab) -> Iterator[Pair]:
    with udp_pair(netlab()) as pair:
        yield pair


def numbered(count: int, size: int = 200) -> list[bytes]:
    return [i.to_bytes(4, "big").ljust(size, b"\0") for i in range(count)]


def assert_all_accounted_for(c: Counters) -> None:
    dropped = c.lost + c.queue_dropped + c.blackholed + c.too_big + c.nat_dropped + c.undeliverable
    assert c.received + c.duplicated == c.delivered + c.held + dropped


def test_untouched_link_delivers_everything_in_order(pair: Pair) -> None:
    sent = numbered(3000)
    for payload in sent:
        pair.send_up(payload)
    assert pair.flush() == sent
    stats = pair.lab.link.stats()
    assert (stats.up.received, stats.up.delivered, stats.up.reordered) == (3001, 3001, 0)
    assert stats.up.delivered_bytes == 3000 * 228 + 32
    assert stats.down.received == 0
    assert pair.lab.client.device_drops() == 0


def test_round_trip_is_the_sum_of_both_delays(pair: Pair) -> None:
    pair.lab.link.set("up", delay_ms=20)
    pair.lab.link.set("down", delay_ms=30)
    times = [pair.round_trip()[0] for _ in range(10)]
    assert min(times) >= 0.050
    assert statistics.median(times) < 0.060
    pair.lab.link.set(delay_ms=0)
    assert min(pair.round_trip()[0] for _ in range(10)) < 0.005


def test_round_trip_over_ipv6(netlab: StartLab) -> None:
    lab = netlab(delay_ms=10)
    with (
        lab.client.socket(socket.AF_INET6, bind=("::", 0)) as client,
        lab.edge.socket(socket.AF_INET6, bind=("::", PORT)) as edge,
    ):
        client.settimeout(WAIT_SECONDS)
        edge.settimeout(WAIT_SECONDS)
        begun = time.perf_counter()
        client.sendto(b"six", (lab.edge.address6, PORT))
        heard, address = edge.recvfrom(100)
        assert address[0] == lab.client.address6
        edge.sendto(heard, address)
        assert client.recv(100) == b"six"
        assert 0.020 <= time.perf_counter() - begun < 0.040


def test_rate_spaces_a_burst(pair: Pair) -> None:
    # 500 packets of 1000 bytes at 8 Mbit/s: one a millisecond.
    pair.lab.link.set("up", rate_mbit=8, queue_ms=None)
    begun = time.perf_counter()
    for payload in numbered(500, 1000 - 28):
        pair.send_up(payload)
    assert len(pair.flush()) == 500
    assert 0.49 <= time.perf_counter() - begun < 0.60
    assert pair.lab.link.stats().up.queue_dropped == 0


@pytest.mark.parametrize("bound", [{"queue_ms": 50.0}, {"queue_ms": None, "queue_bytes": 50_000}])
def test_full_queue_drops_the_tail(pair: Pair, bound: dict[str, float | None]) -> None:
    pair.lab.link.set("up", rate_mbit=8, **bound)  # type: ignore[arg-type]  # a parametrised TypedDict is a dict
    sent = numbered(300, 1000 - 28)
    for payload in sent:
        pair.send_up(payload)
    pair.lab.link.set("up", rate_mbit=None)
    got = pair.flush()
    # 50 in the queue, what the bucket let through at once, and what the link sent while the burst came in.
    assert 48 <= len(got) < 150
    assert got == [payload for payload in sent if payload in set(got)]
    assert got[:48] == sent[:48]
    stats = pair.lab.link.stats().up
    assert stats.queue_dropped == 300 - len(got)
    assert_all_accounted_for(stats)


def test_loss_takes_its_share(pair: Pair) -> None:
    pair.lab.link.set("up", loss=0.1)
    for payload in numbered(4000):
        pair.send_up(payload)
    got = pair.flush()
    assert 3600 - 100 < len(got) < 3600 + 100  # five standard deviations of 19
    assert pair.lab.link.stats().up.lost == 4000 - len(got)
    assert_all_accounted_for(pair.lab.link.stats().up)


def test_equal_seeds_lose_equal_packets(pair: Pair) -> None:
    fates = []
    for seed in (7, 7, 8):
        pair.lab.link.set("up", loss=0.3, seed=seed)
        for payload in numbered(200):
            pair.send_up(payload)
        fates.append(pair.flush())
    assert fates[0] == fates[1] != fates[2]


def test_other_changes_do_not_begin_the_draws_anew(pair: Pair) -> None:
    pair.lab.link.set("up", loss=0.5, seed=7)
    fates = []
    for _ in range(2):
        pair.lab.link.set("up", loss=0.5)
        for payload in numbered(100):
            pair.send_up(payload)
        fates.append(pair.flush())
    assert fates[0] != fates[1]


@pytest.mark.parametrize("delay_ms", [0, 5])
def test_duplicates(pair: Pair, delay_ms: int) -> None:
    pair.lab.link.set("up", duplicate=0.2, delay_ms=delay_ms)
    sent = numbered(2000)
    for payload in sent:
        pair.send_up(payload)
    got = pair.flush()
    assert sorted(set(got)) == sent
    assert 2400 - 90 < len(got) < 2400 + 90  # five standard deviations of 18
    assert pair.lab.link.stats().up.duplicated == len(got) - 2000
    assert_all_accounted_for(pair.lab.link.stats().up)


def test_corruption_is_found_by_the_kernel(pair: Pair) -> None:
    pair.lab.link.set("up", corrupt=0.5)
    sent = numbered(1000, 201)
    for payload in sent:
        pair.send_up(payload)
    got = pair.flush()
    assert got == [payload for payload in sent if payload in set(got)]
    stats = pair.lab.link.stats().up
    assert stats.corrupted == 1000 - len(got)
    assert 400 < stats.corrupted < 600


@pytest.mark.parametrize("size", [1, 200, 201])
def test_corruption_with_a_right_checksum_arrives(pair: Pair, size: int) -> None:
    pair.lab.link.set("up", corrupt_fixed=1)
    sent = bytes(size)
    for _ in range(300):
        pair.send_up(sent)
    got = pair.flush()
    assert len(got) == 300  # a checksum that was repaired wrongly would cost some
    assert all(int.from_bytes(payload, "big").bit_count() == 1 for payload in got)
    assert len(set(got)) > min(size * 8, 100) / 2


def test_jitter_reorders_only_if_asked(pair: Pair) -> None:
    sent = numbered(500)
    for reorder in (False, True):
        pair.lab.link.set("up", delay_ms=5, jitter_ms=20, reorder=reorder)
        for payload in sent:
            pair.send_up(payload)
        got = pair.flush()
        assert sorted(got) == sent
        assert (got != sent) is reorder
    assert pair.lab.link.stats().up.reordered > 100


def test_less_delay_does_not_reorder(pair: Pair) -> None:
    pair.lab.link.set("up", delay_ms=50)
    pair.send_up(b"first")
    pair.lab.link.set("up", delay_ms=0)
    assert pair.flush() == [b"first"]


def test_packets_above_the_path_mtu_vanish(pair: Pair) -> None:
    pair.lab.link.set("up", mtu=1300)
    for size in (1272, 1273, 1472):
        pair.send_up(bytes(size))
    assert [len(payload) for payload in pair.flush()] == [1272]
    assert pair.lab.link.stats().up.too_big == 2


def test_blackhole_swallows_what_is_in_flight_too(pair: Pair) -> None:
    pair.lab.link.set("up", delay_ms=100)
    pair.send_up(b"in flight")
    pair.lab.link.set("up", blackhole=True)
    pair.send_up(b"into it")
    pair.lab.link.set("up", blackhole=False, delay_ms=0)
    assert pair.flush() == []
    assert pair.lab.link.stats().up.blackholed == 2
    assert_all_accounted_for(pair.lab.link.stats().up)


def test_blackout_of_one_direction_leaves_the_other(pair: Pair) -> None:
    _, client_address = pair.round_trip()
    with pair.lab.blackout("up"):
        pair.send_up(b"lost")
        pair.edge.sendto(b"still comes", client_address)
        assert pair.client.recv(100) == b"still comes"
    assert pair.flush() == []
    pair.round_trip()


def test_moved_client_is_seen_at_its_new_address(pair: Pair) -> None:
    before = pair.lab.client.address
    assert pair.round_trip()[1][0] == before
    pair.lab.move_client()
    assert pair.lab.client.address != before
    assert pair.round_trip()[1][0] == pair.lab.client.address
    pair.lab.move_client("192.0.2.7")
    assert pair.round_trip()[1][0] == "192.0.2.7"
    pair.edge.sendto(b"too late", (before, pair.client.getsockname()[1]))
    pair.round_trip()  # would have found the packet for the old address first


def test_moved_client_cannot_send_from_its_old_address(pair: Pair) -> None:
    lab = pair.lab
    with lab.client.socket(bind=(lab.client.address, 0)) as bound:
        bound.sendto(b"before", (lab.edge.address, PORT))
        lab.move_client()
        with pytest.raises(OSError, match=r"unreachable|Invalid argument"):
            bound.sendto(b"after", (lab.edge.address, PORT))
    assert pair.flush() == [b"before"]


def test_moved_client_over_ipv6(netlab: StartLab) -> None:
    lab = netlab()
    with (
        lab.client.socket(socket.AF_INET6, bind=("::", 0)) as client,
        lab.edge.socket(socket.AF_INET6, bind=("::", PORT)) as edge,
    ):
        edge.settimeout(WAIT_SECONDS)
        for wanted in (lab.client.address6, "2001:db8::7"):
            if wanted != lab.client.address6:
                lab.move_client(wanted)
            client.sendto(b"six", (lab.edge.address6, PORT))
            assert edge.recvfrom(100)[1][0] == wanted


def test_nat_rebinding_is_seen_by_an_echo_server(netlab: StartLab) -> None:
    with udp_pair(netlab(nat=True)) as pair:
        own = pair.client.getsockname()[1]
        (_, first), (_, again) = pair.round_trip(), pair.round_trip()
        assert first == again
        assert first[0] == pair.lab.client.address
        assert first[1] != own
        pair.lab.nat_rebind()
        pair.edge.sendto(b"to the old port", first)
        _, second = pair.round_trip()
        assert second[0] == first[0]
        assert second[1] not in {first[1], own}
        pair.edge.sendto(b"to the old port", first)
        assert pair.round_trip()[1] == second
        assert pair.lab.link.stats().down.nat_dropped == 2


def test_nat_rebinding_drops_answers_already_in_flight(netlab: StartLab) -> None:
    with udp_pair(netlab(nat=True)) as pair:
        _, first = pair.round_trip()
        pair.lab.link.set("down", delay_ms=50)
        pair.edge.sendto(b"in flight", first)
        pair.lab.nat_rebind()
        pair.round_trip()
        assert pair.lab.link.stats().down.nat_dropped == 1


def test_nat_keeps_flows_apart(netlab: StartLab) -> None:
    lab = netlab(nat=True)
    with udp_pair(lab) as pair, lab.client.socket(bind=("0.0.0.0", 0)) as other:
        other.settimeout(WAIT_SECONDS)
        _, first = pair.round_trip()
        other.sendto(b"other", (lab.edge.address, PORT))
        payload, second = pair.edge.recvfrom(100)
        assert second != first
        pair.edge.sendto(payload, second)
        assert other.recv(100) == b"other"


def test_nat_forgets_an_idle_mapping(netlab: StartLab) -> None:
    with udp_pair(netlab()) as pair:
        pair.lab.link.set_nat(True, idle_ms=50)
        _, first = pair.round_trip()
        pair.lab.link.set("down", delay_ms=60)  # the answer comes too late
        pair.edge.sendto(b"late", first)
        deadline = time.monotonic() + WAIT_SECONDS
        while pair.lab.link.stats().down.nat_dropped == 0:
            assert time.monotonic() < deadline
        pair.lab.link.set("down", delay_ms=0)
        assert pair.round_trip()[1] != first


def test_rebind_without_a_nat_switches_it_on(pair: Pair) -> None:
    _, plain = pair.round_trip()
    assert plain[1] == pair.client.getsockname()[1]
    pair.lab.nat_rebind()
    pair.edge.sendto(b"to the old port", plain)
    assert pair.round_trip()[1][1] != plain[1]


def test_nat_translates_ipv6_and_keeps_checksums_right(netlab: StartLab) -> None:
    lab = netlab(nat=True)
    with (
        lab.client.socket(socket.AF_INET6, bind=("::", 0)) as client,
        lab.edge.socket(socket.AF_INET6, bind=("::", PORT)) as edge,
    ):
        edge.settimeout(WAIT_SECONDS)
        client.settimeout(WAIT_SECONDS)
        for i in range(200):
            client.sendto(i.to_bytes(8, "little"), (lab.edge.address6, PORT))
            heard, address = edge.recvfrom(100)
            edge.sendto(heard, address)
            assert client.recv(100) == i.to_bytes(8, "little")
            lab.nat_rebind()


def test_segmented_sends_cross_as_single_datagrams(pair: Pair) -> None:
    pair.client.setsockopt(socket.SOL_UDP, 103, 1200)  # UDP_SEGMENT
    pair.send_up(bytes(1200 * 40 + 7))
    pair.client.setsockopt(socket.SOL_UDP, 103, 0)
    assert [len(payload) for payload in pair.flush()] == [1200] * 40 + [7]


def test_packets_in_flight_are_bounded(pair: Pair) -> None:
    bound, burst = 65536, 64
    pair.lab.link.set("up", delay_ms=600_000)
    pair.client.setsockopt(socket.SOL_UDP, 103, 10)  # UDP_SEGMENT
    for i in range(bound // burst + 10):
        pair.send_up(bytes(10 * burst))
        if i % 100 == 0:
            pair.lab.link.stats()  # so that the device's own queue does not overflow
    stats = pair.lab.link.stats().up
    assert (stats.held, stats.queue_dropped) == (bound, 10 * burst)
    assert_all_accounted_for(stats)
    with pair.lab.blackout():
        assert pair.lab.link.stats().up.held == 0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"loss": 1.5}, ValueError),
        ({"loss": -0.1}, ValueError),
        ({"delay_ms": float("nan")}, ValueError),
        ({"rate_mbit": float("inf")}, ValueError),
        ({"latency": 1}, TypeError),
        ({"direction": "sideways", "loss": 0.1}, ValueError),
    ],
)
def test_impossible_settings_are_refused_and_change_nothing(
    pair: Pair, changes: dict[str, float], error: type[Exception]
) -> None:
    with pytest.raises(error):
        pair.lab.link.set(**changes)  # type: ignore[arg-type]  # wrong on purpose
    pair.lab.link.set()
    pair.round_trip()


def test_the_wan_refuses_what_it_does_not_understand(pair: Pair) -> None:
    for command in (
        "",
        "dance",
        "set",
        "set up loss",
        "set up loss x",
        "set up gain 1",
        "nat 1",
        "x" * 1023,
        "stats" + " " * 1019,
    ):
        with pytest.raises(ValueError, match="error"):
            pair.lab.link._ask(command or " ")
    pair.round_trip()
