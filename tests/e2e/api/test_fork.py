"""A program that forks while its tunnel is in use: its child holds nobody's connection."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys

import pytest

from tests.harness.edge_process import children_environment
from tests.harness.sockets import SOCKET_TIMEOUT, TcpEnd, end, first_line, is_reset, program, reset, sockets_of
from tests.harness.waiting import eventually

PROGRAM = """
import json, multiprocessing, os, sys, time
import quictunnel
with quictunnel.forward(int(sys.argv[1]), unencrypted=True) as tunnel:
    print(json.dumps(tunnel.tcp_socket), flush=True)
    children = []
    for line in sys.stdin:
        if line == "multiprocessing\\n":
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
            child.start()
            children.append(child.pid)
        elif line == "fork\\n":
            children.append(os.fork())
            if not children[-1]:
                time.sleep(60)
                os._exit(0)
        print(children[-1], flush=True)
    for child in children:
        os.kill(child, 9)
"""


LISTENERS = """
import os, socket, sys
import quictunnel
from edge_server.embedded import EmbeddedEdge

def listening():
    found = []
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(number)) as sock:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(sock.getsockname())
        except OSError:
            pass
    return found

with EmbeddedEdge(admin=True) as edge, quictunnel.Client.from_config(edge.client_config) as client:
    with quictunnel.forward(9, unencrypted=True, inspect=True, client=client) as tunnel:
        ours = listening()
        assert len(ours) >= 6, ours  # TLS, TCP, the operator's page, successors, the inspector, status
        child = os.fork()
        if not child:
            left = listening()
            print(left, flush=True)
            os._exit(len(left))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert listening() == ours
        socket.create_connection(tunnel.tcp_socket).close()
from quictunnel.transport import descriptors
assert not descriptors._inodes, descriptors._inodes
"""


@pytest.fixture
def origin():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.settimeout(SOCKET_TIMEOUT)
        yield listener


@pytest.fixture
def forwarder(edge, origin):
    made = program([sys.executable, "-c", PROGRAM, str(origin.getsockname()[1])], children_environment(edge))
    yield made
    end(made)


@pytest.mark.parametrize("way", ["fork", "multiprocessing"])
def test_reset_arrives_while_a_forked_child_lives(forwarder, origin, way):
    address = tuple(json.loads(first_line(forwarder)))

    def pair() -> tuple[TcpEnd, TcpEnd]:
        visitor = TcpEnd(opened.enter_context(socket.create_connection(address, SOCKET_TIMEOUT)))
        visitor.send(b"a")
        accepted = TcpEnd(opened.enter_context(origin.accept()[0]))
        assert accepted.receive() == b"a"
        return visitor, accepted

    with contextlib.ExitStack() as opened:
        leaves, stays, ends = pair(), pair(), pair()
        forwarder.stdin.write(f"{way}\n")
        forwarder.stdin.flush()
        child = int(first_line(forwarder))
        eventually(lambda: sockets_of(child) < sockets_of(forwarder.pid) - 3, "the child holds connections")
        reset(leaves[0])
        assert is_reset(leaves[1])
        ends[1].sock.close()
        assert ends[0].receive() == b""
        for here, there in (stays, stays[::-1], pair()):
            here.send(b"the parent's go on")
            assert there.receive() == b"the parent's go on"


def test_forked_child_keeps_no_listener(engines):
    """A connection after the parent's end would wait for an answer that never comes."""
    made = subprocess.run(
        [sys.executable, "-c", LISTENERS], capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
