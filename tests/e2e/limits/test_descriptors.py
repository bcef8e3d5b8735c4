"""Visitors and the file descriptors of the program that forwards, and origins that take nobody in."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys

import pytest

from tests.harness.edge_process import children_environment
from tests.harness.sockets import SOCKET_TIMEOUT, end, first_line, program, reset
from tests.harness.tunnel_fixture import EmbeddedTunnel
from tests.harness.waiting import eventually

LIMIT = 192
PROGRAM = f"""
import json, os, resource, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, hard))
import quictunnel
said = []
origins = [socket.create_server(("127.0.0.1", 0), backlog=512) for _ in range(2)]
opened = []
with quictunnel.forward(origins[0].getsockname()[1], unencrypted=True) as first, \\
        quictunnel.forward(origins[1].getsockname()[1], unencrypted=True) as second:
    client = quictunnel.Client.from_env()
    client.subscribe(lambda event: said.append((event.kind, event.message)))
    print(json.dumps([first.tcp_socket, second.tcp_socket]), flush=True)
    for line in sys.stdin:
        try:
            if line == "fill\\n":
                while True: opened.append(os.open(os.devnull, os.O_RDONLY))
            if line == "empty\\n":
                while opened: os.close(opened.pop())
            os.close(os.open(os.devnull, os.O_RDONLY))
            can_open = True
        except OSError:
            can_open = False
        told = [message for kind, message in said if kind in ("warning", "origin")]
        print(json.dumps([can_open, client.snapshot().visitors_now, client.snapshot().visitors_total, told,
                          resource.getrlimit(resource.RLIMIT_NOFILE)[0]]), flush=True)
"""


class Forwarder:
    """A program with two tunnels and few descriptors."""

    def __init__(self, edge) -> None:
        self.process = program([sys.executable, "-c", PROGRAM], children_environment(edge))
        self.tunnels = [tuple(each) for each in json.loads(first_line(self.process))]

    def ask(self, line: str = "") -> tuple[bool, int, int, list[str], int]:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return tuple(json.loads(first_line(self.process)))


@pytest.fixture
def forwarder(edge):
    made = Forwarder(edge)
    yield made
    end(made.process)


def comes(address: tuple[str, int], host: str = "127.0.0.1") -> socket.socket:
    visitor = socket.create_connection(address, SOCKET_TIMEOUT, source_address=(host, 0))
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leaves with a reset
    with contextlib.suppress(ConnectionResetError):  # it may have been refused by now, which it will see again
        visitor.sendall(b"x")
    return visitor


def stays(visitor: socket.socket) -> bool:
    """Has it been reset? Whoever is refused is, at once."""
    visitor.settimeout(0.5)
    try:
        visitor.recv(1)
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False
    return False


def test_visitors_leave_the_program_its_descriptors(forwarder):
    with contextlib.ExitStack() as stack:
        for _ in range(LIMIT + 50):
            stack.enter_context(comes(forwarder.tunnels[0]))
        eventually(lambda: forwarder.ask()[2] >= LIMIT + 50, "they have not all come")
        eventually(lambda: forwarder.ask()[1] < LIMIT, "nobody was refused")
        can_open, now, _, told, limit = forwarder.ask()
        assert can_open
        assert now > LIMIT / 3
        assert limit == LIMIT
        assert len(told) == 1
        assert "ulimit -n" in told[0]
        other = stack.enter_context(comes(forwarder.tunnels[1], "127.0.0.2"))
        assert stays(other), "another tunnel's visitor from elsewhere has no place"
    eventually(lambda: forwarder.ask()[1] == 0, "visitors have stayed")
    with comes(forwarder.tunnels[0]) as late:
        assert stays(late)


def test_a_program_without_descriptors_says_so(forwarder):
    assert not forwarder.ask("fill")[0]
    with comes(forwarder.tunnels[0]) as visitor:
        assert not stays(visitor)
    told = forwarder.ask("empty")[3]
    assert len(told) == 1
    assert "file descriptors" in told[0]
    with comes(forwarder.tunnels[0]) as visitor:
        assert stays(visitor)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_a_visitor_who_leaves_a_busy_origin_ends_the_dial(engines, kind):
    with EmbeddedTunnel() as rig:
        busy = rig.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            queued = rig.stack.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(busy.getsockname())
        (lease,) = rig.client._manager.visitors._leases
        lease.origin.port = busy.getsockname()[1]
        visits = rig.client._manager.visitors
        visitor = rig.visitor(kind)
        visitor.send(b"question")
        eventually(lambda: len(visits._dialling) == 1, "nobody is dialled")
        reset(visitor)
        eventually(lambda: not visits._dialling and not visits.active_count, "the dial goes on", timeout=5)
