"""The range of TCP ports, with a clock in the test's hand."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from edge_server.ingress.tcp_ports import (
    MAX_DRAWS,
    MAX_UNAVAILABLE_TRIES,
    QUARANTINE_TIME,
    UNAVAILABLE_TIME,
    TcpPorts,
    _NumberSet,
    accept_queue_length,
    try_listen,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.manual_clock import ManualClock

HOST = "127.0.0.1"


@pytest.fixture
def few() -> range:
    """Ten ports in a row that nobody uses, below those that systems give out by themselves."""
    for _ in range(100):
        first = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + 10):
                    stack.enter_context(socket.socket()).bind((HOST, port))
            except OSError:
                continue
            return range(first, first + 10)
    raise AssertionError("no free ports")


@pytest.fixture
def ports(clock: ManualClock, few: range) -> Iterator[PortHolder]:
    taker = PortHolder(TcpPorts(HOST, few, clock))
    yield taker
    taker.close()


class PortHolder:
    """Binds, and closes everything at the end."""

    def __init__(self, ports: TcpPorts) -> None:
        self.ports = ports
        self.held: dict[int, socket.socket] = {}

    def take(self, wanted: int = 0, owner: str = "me") -> int:
        """The port got, 0 for none."""
        sock = self.ports.bind(owner, wanted)
        if sock is None:
            return 0
        port: int = sock.getsockname()[1]
        self.held[port] = sock
        return port

    def take_all(self) -> None:
        """Everything that there is: nearly all of it mine, and the share that is left to others."""
        while self.take() or self.take(owner="neighbour"):
            pass

    def give_back(self, port: int, owner: str = "me") -> None:
        self.held.pop(port).close()
        self.ports.quarantine(port, owner)

    def close(self) -> None:
        for sock in self.held.values():
            sock.close()


def test_a_port_of_the_range_that_listens(ports, few):
    port = ports.take()
    assert port in few
    socket.create_connection((HOST, port)).close()


def test_the_range_is_used_up_and_then_there_is_none(ports, few):
    ports.take_all()
    assert set(ports.held) == set(few)
    assert ports.take() == 0
    assert ports.take(few[3]) == 0


def test_owner_cannot_take_all_ports(ports, few):
    mine = [port for _ in few if (port := ports.take())]
    (left,) = set(few) - set(mine)
    assert ports.take() == ports.take(left) == 0
    assert ports.ports.bind_exact(left, "me") is None
    assert ports.take(owner="another") == left


def test_quarantined_port_counts_for_its_last_owner(ports, few):
    mine = [port for _ in few if (port := ports.take())]
    for port in mine:
        ports.give_back(port)
    again = {ports.take() for _ in mine}
    assert again == set(mine)
    assert ports.take() == 0


def test_inherited_port_counts(ports, few):
    for port in few[1:]:
        ports.ports.adopt(port, "me")
        ports.ports.adopt(port, "me")
    assert ports.ports.shares.held_by("me") == len(few) - 1
    assert ports.take() == 0
    assert ports.take(owner="another") == few[0]


def test_freed_port_is_reserved_for_its_last_owner(ports, clock, few):
    ports.take(few[4])
    ports.take_all()
    ports.give_back(few[4])
    clock.now += QUARANTINE_TIME - 1
    for wanted in (0, few[4]):
        assert ports.take(wanted, "another") == 0
    assert ports.ports.bind_exact(few[4], "another") is None
    assert ports.take(few[4]) == few[4]


def test_repeated_release_quarantines_one_port(ports, few):
    seen = set()
    for _ in few:
        seen.add(port := ports.take())
        ports.give_back(port)
    assert len(seen) == 1
    others = {ports.take(owner=owner) for owner in ("another", "yet-another") for _ in few}
    assert others - {0} == set(few) - seen


def test_claimed_port_is_given_only_to_its_owner(ports, few):
    sock = ports.ports.bind("me", few[2], is_free={few[1]}.__contains__)
    assert sock is not None
    with sock:
        assert sock.getsockname()[1] == few[1]
    assert ports.ports.bind("me", few[2], is_free=set().__contains__) is None


def test_requested_port_is_given_or_refused(ports, few):
    sock = ports.ports.bind_exact(few[2], "me")
    assert sock is not None
    with sock:
        assert ports.ports.bind_exact(few[2], "me") is None
    assert ports.ports.bind_exact(few[-1] + 1, "me") is None


def test_a_quarantine_ends(ports, clock, few):
    ports.take(few[4])
    ports.take_all()
    ports.give_back(few[4])
    clock.now += QUARANTINE_TIME
    assert ports.take(owner="another") == few[4]


def test_reused_port_restarts_its_quarantine(ports, clock, few):
    ports.take(few[0])
    ports.take_all()
    ports.give_back(few[0])
    clock.now += QUARANTINE_TIME - 1
    ports.take(few[0])
    ports.give_back(few[0])
    clock.now += 2
    assert ports.take(owner="another") == 0


def test_a_wanted_port_that_is_taken_is_replaced(ports, few):
    first = ports.take(few[5])
    assert first == few[5]
    assert ports.take(few[5]) in set(few) - {few[5]}


@pytest.mark.parametrize("wanted", [1, 22, 65535])
def test_a_port_outside_the_range_is_not_given(ports, few, wanted):
    assert ports.take(wanted) in few


def test_a_free_port_is_found_among_ten_thousand_in_quarantine(clock, few):
    wide = range(few[0], few[0] + 10_000)
    ports = TcpPorts(HOST, wide, clock)
    for port in wide:
        if port != few[7]:
            ports.quarantine(port, "another")
    sock = ports.bind("me")
    assert sock is not None
    with sock:
        assert sock.getsockname()[1] == few[7]


@pytest.mark.parametrize("allowed", [None, range(20_000, 25_000)])
def test_the_search_for_a_port_takes_as_long_when_few_are_left(clock, monkeypatch, allowed):
    """Counted are the ports that are looked at; nothing listens."""
    looked: list[int] = []
    monkeypatch.setattr(
        "edge_server.ingress.tcp_ports.try_listen", lambda _host, port: looked.append(port) or object()
    )
    claimed = set(range(20_000, 30_000)) - {24_321}
    ports = TcpPorts(HOST, range(20_000, 30_000), clock)
    asked = 0

    def may(port: int) -> bool:
        nonlocal asked
        asked += 1
        return port not in claimed

    while ports.bind("me", allowed=allowed, is_free=may) is None:
        assert asked <= MAX_DRAWS + MAX_UNAVAILABLE_TRIES
        asked = 0
    assert looked == [24_321]
    ports.quarantine(24_321, "me")
    clock.now += UNAVAILABLE_TIME / 2
    for _ in range(3):
        asked = 0
        assert ports.bind("me", allowed=allowed, is_free=may) is not None
        assert asked == 1
        ports.quarantine(24_321, "me")


def test_a_port_that_another_program_had_is_drawn_again(ports, few, clock):
    with socket.socket() as other:
        other.bind((HOST, few[0]))
        other.listen()
        ports.take_all()
        assert few[0] not in ports.held
        assert ports.take(owner="another") == 0
    assert ports.take(owner="another") == few[0]


def test_any_free_port_of_any_part_is_drawn():
    numbers, chance = range(100, 137), random.Random(15)
    drawable, is_in = _NumberSet(numbers), set(numbers)
    for _ in range(2000):
        number = chance.choice(numbers)
        drawable.set_member(number, is_member=number not in is_in)
        is_in ^= {number}
        part = range(*sorted((chance.randrange(90, 145), chance.randrange(90, 145))))
        possible = is_in & set(part)
        assert (drawable.draw(part, chance) in possible) if possible else drawable.draw(part, chance) is None
    assert {drawable.draw(numbers, chance) for _ in range(2000)} == is_in


def test_a_system_without_a_socket_to_give_is_no_port(ports, monkeypatch, caplog):
    def no_socket(host: str, port: int) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("edge_server.ingress.tcp_ports.try_listen", no_socket)
    assert ports.take() == 0
    assert [record.getMessage() for record in caplog.records] == [
        "a listening socket could not be created: Too many open files"
    ]


def test_ipv6():
    sock = try_listen("::1", 0)
    assert sock is not None
    with sock:
        socket.create_connection(("::1", sock.getsockname()[1])).close()


def test_wildcard_listens_on_both_families():
    sock = try_listen("::", 0)
    assert sock is not None
    with sock:
        for host in ("::1", "127.0.0.1"):
            socket.create_connection((host, sock.getsockname()[1])).close()


def test_a_host_that_is_not_this_machine():
    with pytest.raises(OSError, match="assign requested address"):
        try_listen("192.0.2.1", 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not say")
def test_the_length_of_a_queue_is_known():
    sock = try_listen("127.0.0.1", 0)
    assert sock is not None
    with contextlib.ExitStack() as stack:
        stack.enter_context(sock)
        for number in range(5):
            assert accept_queue_length(sock) == number
            stack.enter_context(socket.create_connection(sock.getsockname()))
    assert accept_queue_length(sock) == 0
