"""Several clients that share a name: whom visitors go to, and past whom."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import quictunnel
from edge_server.tunnels.backend import SILENT
from tests.harness.edge_process import EdgeProcess, children_environment, start_edge
from tests.harness.programs import free_port, need
from tests.harness.sockets import SOCKET_TIMEOUT, end, first_line, program
from tests.harness.visitors import tls_connect
from tests.harness.waiting import eventually
from tests.load.background import churn_beside, nothing_left
from tests.load.churn import in_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

SOON = 3.0
"""Seconds for a visitor who does not wait for anybody."""
MEMBER = """
import contextlib, sys, threading, http.server, quictunnel

class Named(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()
    def do_GET(self):
        said = b"hello" if self.path == "/word" else sys.argv[1].encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *words):
        pass
    def handle(self):
        with contextlib.suppress(ConnectionError):
            super().handle()

class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512

def serve():
    server = Server(("127.0.0.1", port), Named)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

port = int(sys.argv[2])
server = serve()
with quictunnel.forward(port, name="shared", pool=True, unencrypted=True) as tunnel:
    print(tunnel.host, tunnel.port, *tunnel.tcp_socket, flush=True)
    for line in sys.stdin:
        if line == "down\\n":
            server.shutdown()
            server.server_close()
        else:
            server = serve()
        print("done", flush=True)
"""


@pytest.fixture
def edge(tmp_path_factory: pytest.TempPathFactory, engines: object) -> Iterator[EdgeProcess]:
    edge = start_edge(tmp_path_factory.mktemp("pool") / "state", "--grace", "1")
    yield edge
    assert edge.stop() == 0
    assert "Traceback" not in edge.state_dir.with_suffix(".log").read_text()


class Member:
    """A process with an origin and a tunnel to it."""

    def __init__(self, edge: EdgeProcess, name: str) -> None:
        self.name = name
        self.process = program([sys.executable, "-c", MEMBER, name, str(free_port())], children_environment(edge))
        host, port, tcp_host, tcp_port = first_line(self.process).split()
        self.tunnel = quictunnel.Tunnel(host, int(port), tcp_host, int(tcp_port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        assert first_line(self.process).strip() == "done"


@pytest.fixture
def members(edge: EdgeProcess) -> Iterator[list[Member]]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(Member(edge, name)) for name in ("a", "b", "c")]
        assert len({member.tunnel for member in found}) == 1
        yield found


def answer_of(sock: socket.socket) -> str:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b""
    while not (body := answer.partition(b"\r\n\r\n")[2]):
        received = sock.recv(1000)
        assert received, answer
        answer += received
    return body.decode()


def answering_member(edge: EdgeProcess, tunnel: quictunnel.Tunnel, *, tls: bool) -> str:
    with tls_connect(edge, tunnel) if tls else socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT) as sock:
        return answer_of(sock)


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "tcp"])
def test_visitors_are_shared_out_evenly(edge: EdgeProcess, members: list[Member], tls: bool):
    tunnel = members[0].tunnel
    with contextlib.ExitStack() as stack:
        served = collections.Counter()
        for _ in range(30):
            sock = (
                tls_connect(edge, tunnel) if tls else socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)
            )
            served[answer_of(stack.enter_context(sock))] += 1
        assert served == {"a": 10, "b": 10, "c": 10}


def test_member_without_its_origin_is_skipped(edge: EdgeProcess, members: list[Member]):
    """Visitors that go to it all the same lose nothing: what they said is said to another."""
    tunnel = members[0].tunnel
    served: list[str] = []

    def served_by(*, tls: bool) -> str:
        served.append(answering_member(edge, tunnel, tls=tls))
        return served[-1]

    with churn_beside(edge, tunnel, conversation="http", others=lambda: len(served)) as churn:
        began = time.monotonic()
        members[1].tell("down")
        down = time.monotonic()
        for tls in (True, False):
            assert {served_by(tls=tls) for _ in range(20)} == {"a", "c"}
        members[1].tell("up")
        eventually(lambda: served_by(tls=True) == "b", "it is well again and gets nobody", timeout=15)
        # An origin that ends resets those whom it has accepted.
        churn.finish(in_between(began, down))
    nothing_left(edge)


def test_no_request_fails_while_members_change(edge: EdgeProcess, members: list[Member]):
    """No request fails while three clients leave in good order and come back."""
    tunnel = members[0].tunnel
    stop = threading.Event()
    failed: list[bytes] = []
    count = 0

    def upload() -> None:
        nonlocal count
        command = [need("curl"), "--silent", "--show-error", "--fail", "--cacert", str(edge.ca), "--noproxy", "*",
                   "--data-binary", "x" * 1000, tunnel.url]  # fmt: skip
        while not stop.is_set():
            done = subprocess.run(command, capture_output=True, check=False, timeout=30)
            count += 1
            if done.returncode:
                failed.append(done.stderr)

    uploader = threading.Thread(target=upload)
    with (
        contextlib.ExitStack() as stack,
        churn_beside(edge, tunnel, conversation="http", others=lambda: count, in_flight=1) as churn,
    ):
        uploader.start()
        try:
            for turn in range(6):
                leaving = members[turn % 3]
                assert end(leaving.process) == 0
                seen = count
                churn.wait_for(5)
                eventually(lambda seen=seen: count > seen, "nobody is served")
                members[turn % 3] = stack.enter_context(Member(edge, leaving.name))
        finally:
            stop.set()
            uploader.join()
        assert failed == []
        churn.finish()
        nothing_left(edge)


def test_a_member_that_was_killed_is_passed_by_within_seconds(edge: EdgeProcess, members: list[Member]):
    """Only visitors who come before its death is noticed may wait for it in vain."""
    tunnel = members[0].tunnel
    with churn_beside(edge, tunnel, conversation="http", patience=SOON) as churn:
        killed = time.monotonic()
        os.kill(members[1].process.pid, signal.SIGKILL)
        members[1].process.wait()
        time.sleep(SILENT + 0.5)  # the time that it may take
        noticed = time.monotonic()
        churn.wait_for(20)
        churn.finish(in_between(killed, noticed))
        assert any(visitor.failure for visitor in churn.finished), "nobody has gone to the dead client"
    for tls in (True, False):
        assert {answering_member(edge, tunnel, tls=tls) for _ in range(6)} == {"a", "c"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "all of its clients must set pool=True"),
        ({"pool": True}, "all of its clients must set pool=True"),  # without its TCP port
        ({"pool": True, "unencrypted": True, "h2_enabled": False, "allow": ["::1/128"]}, "To share a name"),
        ({"pool": True, "unencrypted": True, "tcp_port": 29500}, "another TCP port"),
    ],
)
def test_client_with_other_options_does_not_join(
    edge: EdgeProcess, members: list[Member], options: dict[str, object], words: str
):
    with edge.client() as client, pytest.raises(quictunnel.Error, match=words):
        quictunnel.forward(9, name="shared", client=client, **options).__enter__()


def test_port_stays_while_a_member_is_left(edge: EdgeProcess, members: list[Member]):
    tunnel = members[0].tunnel
    for member in members[:2]:
        end(member.process)
    assert {answering_member(edge, tunnel, tls=tls) for tls in (True, False)} == {"c"}
    end(members[2].process)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)
