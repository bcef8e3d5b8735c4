"""Few places for visitors on their way in: strangers who want them all, and an edge with few descriptors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

import quictunnel
from edge_server.ingress.tls_listener import Deadlines
from edge_server.resources.descriptor_budget import MAX_HANDSHAKES, MIN_FILES
from tests.e2e.limits.test_floods import attack
from tests.harness.edge_process import start_edge
from tests.harness.sockets import SOCKET_TIMEOUT, first_line, verifying
from tests.harness.tunnel_fixture import EmbeddedTunnel
from tests.harness.visitors import curl
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STATES = ["silent", "half a hello", "handshake", "refused", "half a request", "redirected"]
PLACES = 60
RATE = 100
"""Newcomers of the flood a second: all places anew in less than a second, for ever."""


def with_file_limit(files: int) -> tuple[str, ...]:
    """A command before a command that lets it open so many files."""
    return "bash", "-c", f'ulimit -n {files}; exec "$@"', "-"


class FloodedEdge(EmbeddedTunnel):
    """Two tunnels of different tokens; the second is somebody's who has nothing to do with the flood."""

    def __init__(self) -> None:
        super().__init__()
        self.victim = self.stack.enter_context(quictunnel.Client.from_config(self.edge.client_config))
        forward = quictunnel.forward(self.origin_port, client=self.victim, unencrypted=True, name="victim")
        self.other = self.stack.enter_context(forward)
        self.context = verifying(self.ca)

    @property
    def front(self) -> Any:
        return self.edge.server.introspection.tls_listener

    def visit(self, source: str) -> float:
        """Seconds of a visitor's handshake with the tunnel that nobody floods."""
        began = time.perf_counter()
        with (
            socket.create_connection(("127.0.0.1", self.other.port), SOCKET_TIMEOUT, (source, 0)) as raw,
            self.context.wrap_socket(raw, server_hostname=self.other.host),
        ):
            return time.perf_counter() - began

    def flooded_by(
        self, states: list[str], places: int, rate: int, seconds: int, *, sources: tuple[str, ...]
    ) -> list[float]:
        """Measure how long visitors from these addresses wait, repeatedly while the flood goes on. All have to
        be served."""
        port, name = self.tunnel.port, self.tunnel.host
        before = self.front.pending.evictions
        with attack("occupy", "127.0.0.1", port, places + 20, rate, seconds, ",".join(states), name) as flood:
            assert json.loads(first_line(flood, 60)) == {"all": "there"}
            eventually(lambda: self.front.pending.evictions > before, "the flood did not arrive")
            assert self.front.pending.largest_network()[0] == "127.9.9.0/24"
            took = []
            until = time.monotonic() + seconds - 0.2
            while time.monotonic() < until:
                took += [self.visit(source) for source in sources]
            done = json.loads(first_line(flood, 60))
        # It arrived, and it is whom it cost its places: some end by themselves, after 2 to 10 seconds.
        assert done["made"] >= places + rate * seconds * 0.8
        assert self.front.pending.evictions - before >= 0.1 * (done["made"] - places) > 0
        return took


@pytest.fixture(scope="module")
def flooded(engines: object) -> Iterator[FloodedEdge]:
    with FloodedEdge() as rig:
        yield rig


@pytest.mark.parametrize(
    "states",
    [*(pytest.param([state], marks=pytest.mark.long) for state in STATES), STATES],
    ids="+".join,
)
def test_a_flood_of_the_tls_port_leaves_others_their_places(flooded: FloodedEdge, states: list[str]):
    flooded.front.pending.limit = PLACES
    # The second is of the network that floods, and an address that holds no other place.
    took = flooded.flooded_by(states, PLACES, RATE, 1, sources=("127.0.0.1", "127.9.9.254"))
    assert len(took) >= 4
    assert sorted(took)[len(took) // 2] < 0.5
    eventually(lambda: not flooded.front.pending, "places are left taken")


@pytest.mark.long
@pytest.mark.alone
def test_a_flood_of_all_places_that_there_are_by_default(engines: object):
    """Deadlines are long, so that it needs no more of the machine than a place needs."""
    with FloodedEdge() as rig:
        places = rig.front.pending.limit
        assert places == MAX_HANDSHAKES
        rig.front.deadlines = Deadlines(hello=300, handshake=300)
        states = ["silent", "half a hello", "handshake", "half a request"]
        took = rig.flooded_by(states, places, RATE, 10, sources=("127.0.0.1", "127.9.9.254"))
        print(f"{len(took)} served, median {sorted(took)[len(took) // 2] * 1e3:.0f} ms, worst {max(took):.2f} s")
        assert sorted(took)[len(took) // 2] < 0.5


class TestFewDescriptors:
    """256 of them are what macOS allows by default."""

    def test_visitors_over_tls_are_served(self, tmp_path: Path, origin: int, engines: object):
        edge = start_edge(tmp_path / "state", "--grace", "0", prefix=with_file_limit(256))
        try:
            with edge.client() as client, quictunnel.forward(origin, client=client) as tunnel:
                assert curl(edge, "--http0.9", "--max-time", "1", tunnel.url).stdout == b"hello"
                before = self._served(edge, tunnel)
                with self._flood(tunnel):
                    assert self._served(edge, tunnel) == before == 20
        finally:
            assert edge.stop() == 0
        response_to = (tmp_path / "state.log").read_text()
        assert (
            response_to.count("256 file descriptors: places for 132 visitors, for 44 in their TLS handshake") == 1
        )
        assert response_to.count("TLS handshake capacity is exhausted") == 1
        assert response_to.count("ulimit -n") == 1
        assert "Traceback" not in response_to

    @staticmethod
    def _served(edge: Any, tunnel: quictunnel.Tunnel) -> int:
        context = verifying(edge.ca)
        for _ in range(20):
            with (
                socket.create_connection(("127.0.0.1", tunnel.port), SOCKET_TIMEOUT) as raw,
                context.wrap_socket(raw, server_hostname=tunnel.host) as visitor,
            ):
                assert visitor.recv(5) == b"hello"
        return 20

    @staticmethod
    def _flood(tunnel: quictunnel.Tunnel) -> Any:
        """More than there are descriptors, at once."""
        flood = attack("occupy", "127.0.0.1", tunnel.port, 400, 50, 1, "handshake,silent", tunnel.host)
        assert json.loads(first_line(flood)) == {"all": "there"}
        return flood

    def test_low_descriptor_limit_is_reported_at_start(self, tmp_path: Path):
        command = [
            *with_file_limit(MIN_FILES - 1),
            sys.executable,
            "-m",
            "edge_server",
            "--state-dir",
            str(tmp_path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith("edge_server: error: This process may open only 95 files")
        assert done.stderr.count("\n") == 1
        assert "LimitNOFILE=" in done.stderr

    def test_a_limit_that_may_be_raised_is_raised(self, tmp_path: Path):
        soft = "bash", "-c", 'ulimit -Sn 256; exec "$@"', "-"
        edge = start_edge(tmp_path / "state", prefix=soft)
        assert edge.stop() == 0
        assert " 256 file descriptors" not in (tmp_path / "state.log").read_text()


class TestWithoutTls:
    """Plain HTTP at the TLS port."""

    @pytest.fixture
    def tunnel(self, nginx: Any, client: quictunnel.Client) -> Iterator[quictunnel.Tunnel]:
        (nginx.root / "shelf").mkdir()
        (nginx.root / "shelf" / "page").write_text("books\n")
        with quictunnel.forward(nginx.port, client=client) as tunnel:
            yield tunnel

    def test_curl_follows_to_https(self, edge: Any, tunnel: quictunnel.Tunnel):
        url = tunnel.url.replace("https://", "http://") + "/shelf/page?page=2&q=%20a"
        done = curl(
            edge, "--location", "--fail", "--write-out", "%{http_code} %{num_redirects} %{url_effective}", url
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == f"books\n200 1 {tunnel.url}/shelf/page?page=2&q=%20a"

    def test_method_and_body_are_kept(self, edge: Any, nginx: Any, tunnel: quictunnel.Tunnel, tmp_path: Path):
        body = tmp_path / "body"
        body.write_bytes(os.urandom(20_000))
        url = tunnel.url.replace("https://", "http://") + "/up/body"
        done = curl(edge, "--location", "--fail", "--upload-file", str(body), url)
        assert done.returncode == 0, done.stderr
        assert (nginx.root / "up" / "body").read_bytes() == body.read_bytes()

    def test_names_that_there_are_not_get_one_answer(self, edge: Any, tunnel: quictunnel.Tunnel):
        def response_to(*more: str) -> bytes:
            return curl(edge, "--include", *more, f"http://127.0.0.1:{tunnel.port}/").stdout

        unknown = response_to("--header", f"Host: x{tunnel.host}")
        assert unknown.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"https://" in unknown
        label = tunnel.host.partition(".")[0]
        for host in ("", "Host: evil.example", f"Host: {label}", "Host:", "Host: 127.0.0.1", "Host: a b"):
            assert response_to(*(["--header", host] if host else [])) == unknown
        assert response_to("--header", f"Host: {tunnel.host}").startswith(b"HTTP/1.1 308 ")
