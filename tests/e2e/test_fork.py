"""A program that forks while its tunnel is in use: its child holds nobody's connection."""

from __future__ import annotations

import contextlib
import json
import socket
import sys

import pytest

from tests.e2e.conftest import children_environment
from tests.e2e.ends import PATIENCE, TcpEnd, end, eventually, first_line, is_reset, program, reset, sockets_of

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


@pytest.fixture
def origin():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.settimeout(PATIENCE)
        yield listener


@pytest.fixture
def forwarder(edge, origin):
    made = program([sys.executable, "-c", PROGRAM, str(origin.getsockname()[1])], children_environment(edge))
    yield made
    end(made)


@pytest.mark.parametrize("way", ["fork", "multiprocessing"])
def test_a_reset_is_heard_while_a_forked_child_lives(forwarder, origin, way):
    address = tuple(json.loads(first_line(forwarder)))

    def pair() -> tuple[TcpEnd, TcpEnd]:
        visitor = TcpEnd(opened.enter_context(socket.create_connection(address, PATIENCE)))
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
