"""Names and TCP ports that belong to somebody, with a real edge."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import quictunnel
from edge_server.tunnels.bind_policy import MAX_TAKEOVERS
from edge_server.tunnels.ownership import MAX_CLAIMS
from tests.harness.echo_origin import EchoOrigin
from tests.harness.edge_process import EdgeProcess, children_environment, start_edge
from tests.harness.sockets import SOCKET_TIMEOUT, first_line, program
from tests.harness.token_commands import client_of, command, new_token
from tests.harness.visitors import tls_connect, was_reset
from tests.harness.waiting import eventually
from tests.load.background import arrivals_at, churn_beside
from tests.load.churn import in_between

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.load.plan import FinishedVisitor

TRIES = 1000
PORTS = ("--quic", "127.0.0.1:18999", "--https", "127.0.0.1:18998", "--tcp-ports", "18500-18997")
"""Ports that no other edge of the tests has."""
OPTIONS = (*PORTS, "--grace", "1")
"""An edge does not wait for visitors of a client that was killed a moment ago."""


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory, engines: object) -> Iterator[EdgeProcess]:
    edge = start_edge(tmp_path_factory.mktemp("names") / "state", "--tcp-ports", "18000-18499")
    yield edge
    assert edge.stop() == 0
    assert "Traceback" not in edge.state_dir.with_suffix(".log").read_text()


@pytest.fixture(scope="module")
def owner(edge: EdgeProcess) -> str:
    return new_token(edge)


@pytest.fixture(scope="module")
def other(edge: EdgeProcess) -> str:
    return new_token(edge)


def is_greeted(edge: EdgeProcess, tunnel: quictunnel.Tunnel) -> bool:
    with tls_connect(edge, tunnel) as visitor:
        return visitor.recv(5) == b"hello"


def assert_refused(edge: EdgeProcess, token: str, words: str, port: int = 9, **options: object) -> None:
    with client_of(edge, token) as client, pytest.raises(quictunnel.Error, match=words):
        quictunnel.forward(port, client=client, **options).__enter__()


def test_a_name_and_a_port_are_the_same_each_time(edge: EdgeProcess, owner: str, origin: int):
    seen = set()
    for _ in range(3):
        with (
            client_of(edge, owner) as client,
            quictunnel.forward(origin, name="mine", unencrypted=True, tcp_port=18001, client=client) as tunnel,
        ):
            seen.add((tunnel.url, tunnel.tcp_socket))
            assert is_greeted(edge, tunnel)
    assert seen == {(f"https://mine.tunnel.localhost:{tunnel.port}", ("127.0.0.1", 18001))}


def test_owned_names_are_refused_to_other_tokens(edge: EdgeProcess, owner: str, other: str, origin: int):
    options = {"name": "kept", "unencrypted": True, "tcp_port": 18002}
    with client_of(edge, owner) as client, quictunnel.forward(origin, client=client, **options) as tunnel:
        assert_refused(edge, other, "another token", name="kept")
        assert_refused(edge, other, "another token owns TCP port", unencrypted=True, tcp_port=18002)
        assert is_greeted(edge, tunnel)
    assert_refused(edge, other, "another token", name="kept")
    assert_refused(edge, other, "another token", name="kept", pool=True)
    assert_refused(edge, other, "another token owns TCP port", unencrypted=True, tcp_port=18002)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "www"}, "the edge reserves the name"),
        ({"name": "postmaster"}, "the edge reserves the name"),
        ({"unencrypted": True, "tcp_port": 22}, "outside this edge.s range"),
        ({"name": "My-App"}, "lower case"),
        ({"name": "\u0430pple"}, "a-z, 0-9 and hyphens"),
        ({"name": "abcdefghijklmno2"}, "form of the edge.s random names"),
        ({"pool": True}, "A pool shares a name"),
        ({"tcp_port": 18003}, "unencrypted=True"),
        ({"allow": ["example.com"]}, "is not a network"),
        ({"deny": "10.0.0.0/8"}, "should be a list"),
        ({"tls": "both"}, "tls should be one of"),
        ({"tls": "passthrough", "h2_enabled": True}, "offers HTTP/2 itself"),
        ({"proxy_protocol": "v3"}, "v1 or v2"),
    ],
)
def test_invalid_names_and_options_are_refused(
    edge: EdgeProcess, owner: str, options: dict[str, object], words: str
):
    assert_refused(edge, owner, words, **options)


def test_rights_to_names(edge: EdgeProcess, owner: str, origin: int):
    narrow = new_token(edge, "--names", "team-*,www")
    with client_of(edge, narrow) as client:
        for name in ("team-a", "www"):
            with quictunnel.forward(origin, name=name, client=client) as tunnel:
                assert is_greeted(edge, tunnel)
        with quictunnel.forward(origin, client=client) as tunnel:  # a random one is everybody's right
            assert is_greeted(edge, tunnel)
    assert_refused(edge, narrow, "token does not allow", name="else")
    new_token(edge, "--names", "promised")
    assert_refused(edge, owner, "another token", name="promised")


def test_claims_of_a_token_are_limited(edge: EdgeProcess):
    token = new_token(edge)
    with client_of(edge, token) as client:
        for number in range(MAX_CLAIMS):
            with quictunnel.forward(9, name=f"n{number}", client=client):
                pass
    assert_refused(edge, token, "maximum of names and ports", name="one-more")
    eventually(lambda: "n3" in command(edge, "name", "list"), "it was not written down")
    command(edge, "name", "release", "n3")
    eventually(lambda: opens(edge, token, "one-more"), "a name was released and none is to be had", timeout=3)


def opens(edge: EdgeProcess, token: str, name: str) -> bool:
    try:
        with client_of(edge, token) as client, quictunnel.forward(9, name=name, client=client):
            return True
    except quictunnel.Error:
        return False


def test_newer_client_of_a_token_takes_the_name(edge: EdgeProcess, owner: str, origin: int):
    told: list[str] = []
    with client_of(edge, owner) as old, client_of(edge, owner) as new:
        old.subscribe(lambda event: told.append(event.kind))
        with (
            quictunnel.forward(origin, name="moving", client=old) as tunnel,
            quictunnel.forward(1, client=old),
            tls_connect(edge, tunnel) as before,
        ):
            assert before.recv(5) == b"hello"
            with quictunnel.forward(origin, name="moving", client=new) as again:
                assert again == tunnel
                eventually(lambda: "lost" in told, "the older client was not told")
                assert is_greeted(edge, again)
                assert new.snapshot().visitors_total == 1
                assert old.state == "connected"
                assert old.snapshot().visitors_now == 1  # who was in stays


def test_a_name_that_two_fight_over_stays_with_the_one_that_has_it(edge: EdgeProcess, owner: str):
    with contextlib.ExitStack() as stack:
        for _ in range(1 + MAX_TAKEOVERS):
            client = stack.enter_context(client_of(edge, owner))
            stack.enter_context(quictunnel.forward(9, name="ring", client=client))
        with pytest.raises(quictunnel.Error, match="taken over 10 times"):
            quictunnel.forward(9, name="ring", client=stack.enter_context(client_of(edge, owner))).__enter__()


def test_withdrawn_by_the_operator(edge: EdgeProcess, owner: str, origin: int):
    told: list[str] = []
    with client_of(edge, owner) as client:
        client.subscribe(lambda event: told.append(event.kind))
        with (
            quictunnel.forward(origin, name="phish", unencrypted=True, client=client) as tunnel,
            socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT) as visitor,
            tls_connect(edge, tunnel) as over_tls,
        ):
            assert visitor.recv(5) == b"hello"
            assert over_tls.recv(5) == b"hello"
            command(edge, "name", "ban", "phish")
            began = time.monotonic()
            assert was_reset(visitor)
            assert was_reset(over_tls)
            assert time.monotonic() - began < 1
            eventually(lambda: "lost" in told, "the client was not told")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)
    assert_refused(edge, owner, "banned the name", name="phish")


def test_visitors_of_a_banned_address_are_refused(edge: EdgeProcess, owner: str, origin: int):
    """Visitors of a banned address are gone within a second; others stay, and the history shows the holders."""

    def connect(source: str, address: tuple[str, int]) -> socket.socket:
        return socket.create_connection(address, SOCKET_TIMEOUT, (source, 0))

    with (
        client_of(edge, owner) as client,
        quictunnel.forward(origin, name="seen", unencrypted=True, client=client) as tunnel,
    ):
        over_tls = ("127.0.0.1", tunnel.port)
        with connect("127.0.0.66", tunnel.tcp_socket) as bad, connect("127.0.0.67", tunnel.tcp_socket) as good:
            assert bad.recv(5) == good.recv(5) == b"hello"
            command(edge, "name", "ban", "127.0.0.66")
            began = time.monotonic()
            assert was_reset(bad)
            assert time.monotonic() - began < 1
            for address in (tunnel.tcp_socket, over_tls):
                with pytest.raises(ConnectionResetError), connect("127.0.0.66", address) as again:
                    again.recv(1)
            good.setblocking(False)
            with pytest.raises(BlockingIOError):
                good.recv(1)
        command(edge, "name", "release", "127.0.0.66")
    eventually(lambda: "released" in command(edge, "name", "history", "seen"), "it was not written down")
    events = json.loads(command(edge, "name", "history", "seen", "--json"))
    assert (events[0]["held"], events[0]["visitors"], events[0]["host"]) == (1, 2, "127.0.0.1")
    assert events[0]["port"] == tunnel.unencrypted_port
    assert events[0]["owner"] == owner.split(".")[1]


def test_clients_of_a_banned_address_are_refused(tmp_path: Path, origin: int):
    edge = start_edge(tmp_path / "state")
    states: list[str] = []
    with edge.client() as client:
        client.subscribe(lambda event: states.append(event.kind))
        with quictunnel.forward(origin, client=client):
            command(edge, "name", "ban", "127.0.0.0/8")
            eventually(lambda: "failed" in states, "the client goes on", timeout=5)
    with edge.client() as client, pytest.raises(quictunnel.ConfigError, match="has banned this address"):
        quictunnel.forward(origin, client=client).__enter__()
    assert edge.stop() == 0


HOLDER = """
import sys, quictunnel
with quictunnel.forward(int(sys.argv[1]), name="prize", unencrypted=True, tcp_port=18600) as tunnel:
    print(tunnel.host, tunnel.port, *tunnel.tcp_socket, flush=True)
    sys.stdin.read()
"""


class Holder:
    """The owner's program, which has the name and the port, and the gaps in which it does not serve them."""

    def __init__(self, environment: dict[str, str], origin: int) -> None:
        self.gaps: list[tuple[float, float]] = []
        self._environment = environment
        self._origin = origin
        self._since = 0.0
        """Start of the gap that has not ended."""

    def begin(self) -> quictunnel.Tunnel:
        self.process = program([sys.executable, "-c", HOLDER, str(self._origin)], self._environment)
        host, port, tcp_host, tcp_port = first_line(self.process).split()
        assert host.startswith("prize.")
        if self._since:
            self.close_gap()
        return quictunnel.Tunnel(host, int(port), tcp_host, int(tcp_port))

    def give_back(self) -> None:
        self.open_gap()
        self.process.communicate()

    def die(self) -> None:
        self.open_gap()
        self.process.kill()
        self.process.communicate()

    def open_gap(self) -> None:
        self._since = time.monotonic()

    def close_gap(self) -> None:
        self.gaps.append((self._since, time.monotonic()))

    def spares(self, visit: FinishedVisitor) -> bool:
        """Return True for a visitor who was there in one of the gaps."""
        return any(in_between(*gap)(visit) for gap in self.gaps)


@pytest.mark.slow
@pytest.mark.parametrize("tries_each", [TRIES // 4, pytest.param(TRIES, marks=pytest.mark.long)])
def test_name_and_port_withstand_a_thousand_takeover_attempts(tmp_path: Path, tries_each: int):
    """At every moment of its life: held, given back, its client killed, its edge restarted and killed. Its owner's
    visitors come and leave all the while, and none of them fails while somebody serves them."""
    edge = start_edge(tmp_path / "state", *OPTIONS)
    owner, thief = new_token(edge), new_token(edge)
    tries = dict.fromkeys(("name", "port"), 0)
    stop = threading.Event()
    stolen: list[str] = []

    def steal() -> None:
        with client_of(edge, thief) as client:
            while not stop.is_set():
                for what, options in (
                    ("name", {"name": "prize"}),
                    ("port", {"unencrypted": True, "tcp_port": 18600}),
                ):
                    try:
                        with quictunnel.forward(9, client=client, **options) as tunnel:
                            stolen.append(f"{what} {tunnel}")
                    except quictunnel.EdgeUnavailableError:
                        continue  # it is being restarted: asked again
                    except quictunnel.InvalidError:
                        tries[what] += 1

    def wait_for_attempts(at_least: int) -> None:
        goal = {what: count + at_least * tries_each // TRIES for what, count in tries.items()}
        eventually(lambda: all(tries[what] >= goal[what] for what in goal), "the thief is stuck", timeout=60)

    environment = children_environment(edge) | {"QUICTUNNEL_TOKEN": owner}
    with EchoOrigin() as origin, contextlib.ExitStack() as stack:
        holder = Holder(environment, origin.port)
        churn = stack.enter_context(churn_beside(edge, holder.begin()))
        thread = threading.Thread(target=steal)
        thread.start()
        stack.callback(thread.join)
        stack.callback(stop.set)
        wait_for_attempts(100)  # held
        holder.give_back()
        wait_for_attempts(100)  # given back
        for _ in range(4):
            holder.begin()
            churn.wait_for(2)
            wait_for_attempts(50)
            holder.die()
            wait_for_attempts(50)  # its owner is gone, and the edge does not know yet
        holder.begin()
        for number in (signal.SIGTERM, signal.SIGKILL):
            churn.edge_leaves()
            holder.open_gap()
            edge.stop(number)
            edge = start_edge(tmp_path / "state", *OPTIONS)
            holder.close_gap()
            churn.edge_follows(arrivals_at(edge))
            wait_for_attempts(150)  # the owner is on its way back
        churn.wait_for(2)
        churn.finish(holder.spares)
        holder.give_back()
        wait_for_attempts(100)
    assert stolen == []
    assert min(tries.values()) >= tries_each
    holder.begin()  # still its owner's
    holder.give_back()
    assert edge.stop() == 0
