"""Tests of an edge's reports while real programs use it: one log line per visitor, metrics, health, state dump."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.edge_process import start_edge
from tests.harness.programs import free_port
from tests.harness.sockets import (
    SOCKET_TIMEOUT,
    ClientProcess,
    End,
    TcpEnd,
    TlsEnd,
    is_reset,
    receive_all,
    reset,
    verifying,
)
from tests.harness.visitors import curl
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLD = 12


class WatchedEdge:
    """An edge with all eyes on, a client, and an origin in the test's own hands."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack, *more: str, grace: int = 0) -> None:
        self.log = directory / "edge.log"
        options = ("--log-format", "json", "--admin", "127.0.0.1:0", "--grace", str(grace), "--hold", str(HOLD))
        self.edge = start_edge(directory / "state", *options, *more, log=self.log)
        stack.callback(self.edge.stop)
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.settimeout(SOCKET_TIMEOUT)
        self.client = stack.enter_context(ClientProcess.start(self.edge, self.listener.getsockname()[1]))
        self.admin = (directory / "state" / "admin.url").read_text()
        self.token = (directory / "state" / "admin.token").read_text()
        self.ends: list[socket.socket] = []
        self.past = 0
        """Lines of before the last visitor."""

    def visitor(self, kind: str, client: ClientProcess | None = None) -> tuple[End, int]:
        """Connect a visitor; return its end and its local port."""
        self.past = len(self.lines())  # the system may give a port again
        tunnel = (client or self.client).tunnel
        if kind == "tcp":
            sock = socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT)
            self.ends.append(sock)
            return TcpEnd(sock), sock.getsockname()[1]
        sock = socket.create_connection(("127.0.0.1", tunnel.port), SOCKET_TIMEOUT)
        self.ends.append(sock)
        return TlsEnd(sock, verifying(self.edge.ca), tunnel.host), sock.getsockname()[1]

    def accept(self) -> TcpEnd:
        """The origin of the next visitor."""
        sock = self.listener.accept()[0]
        self.ends.append(sock)
        return TcpEnd(sock)

    def pair(self, kind: str) -> tuple[End, End, int]:
        """A visitor that has said 5 bytes and heard 7, and its origin."""
        visitor, port = self.visitor(kind)
        origin = self.accept()
        visitor.send(b"hello")
        assert origin.receive() == b"hello"
        origin.send(b"welcome")
        assert visitor.receive() == b"welcome"
        return visitor, origin, port

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def line_of(self, port: int, timeout: float = SOCKET_TIMEOUT) -> dict[str, Any]:
        """The one line of the visitor that came from there."""
        past = self.past

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines()[past:] if line.get("visitor_port") == port]

        eventually(lambda: bool(found()), "no line of that visitor", timeout)
        (line,) = found()
        return line

    def ask(self, path: str, *, token: bool = True) -> subprocess.CompletedProcess[bytes]:
        shown = ("--header", f"Authorization: Bearer {self.token}") if token else ()
        return curl(self.edge, "--write-out", "\n%{http_code}", *shown, self.admin.rstrip("/") + path)

    def figures(self) -> dict[tuple[str, ...], float]:
        text = self.ask("/metrics").stdout.rpartition(b"\n")[0].decode()
        return {
            (sample.name.removeprefix("quictunnel_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture(scope="module")
def shared_edge(tmp_path_factory, engines) -> Iterator[WatchedEdge]:
    with contextlib.ExitStack() as stack:
        yield WatchedEdge(tmp_path_factory.mktemp("sight"), stack)


@pytest.fixture
def watched(shared_edge: WatchedEdge) -> Iterator[WatchedEdge]:
    yield shared_edge
    for sock in shared_edge.ends:
        sock.close()
    shared_edge.ends.clear()


@pytest.mark.parametrize("kind", ["tls", "tcp"])
def test_both_sides_finished(watched: WatchedEdge, kind: str):
    begun = time.monotonic()
    visitor, port = watched.visitor(kind)
    origin = watched.accept()
    visitor.send(b"question")
    visitor.finish()
    assert receive_all(origin) == b"question"
    time.sleep(0.2)  # what the origin takes to think
    origin.send(bytes(300_000))
    origin.finish()
    assert len(receive_all(visitor)) == 300_000
    visitor.sock.close()
    line = watched.line_of(port)
    lasted = time.monotonic() - begun
    assert (line["bytes_in"], line["bytes_out"], line["ending"]) == (8, 300_000, "done")
    assert (line["visitor"], line["name"], line["kind"]) == (
        "127.0.0.1",
        watched.client.tunnel.host.partition(".")[0],
        kind,
    )
    assert (line["tls"], line["alpn"]) == (("TLSv1.3", "") if kind == "tls" else ("", ""))
    assert 0.2 <= line["first_byte"] <= line["seconds"] <= lasted
    assert line["level"] == "info"
    assert line["message"].startswith("visitor 127.0.0.1 of ")


@pytest.mark.parametrize("kind", ["tls", "tcp"])
def test_the_visitor_broke_off(watched: WatchedEdge, kind: str):
    visitor, origin, port = watched.pair(kind)
    reset(visitor)
    assert is_reset(origin)
    line = watched.line_of(port)
    assert (line["bytes_in"], line["bytes_out"], line["ending"]) == (5, 7, "visitor")


@pytest.mark.parametrize("kind", ["tls", "tcp"])
def test_the_origin_broke_off(watched: WatchedEdge, kind: str):
    visitor, origin, port = watched.pair(kind)
    reset(origin)
    assert is_reset(visitor)
    line = watched.line_of(port)
    assert (line["bytes_in"], line["bytes_out"], line["ending"]) == (5, 7, "origin")


def test_the_origin_refused(watched: WatchedEdge):
    with ClientProcess.start(watched.edge, free_port()) as client:
        visitor, port = watched.visitor("tcp", client)
        visitor.send(b"\x00no HTTP")
        assert is_reset(visitor)
        line = watched.line_of(port)
        # What was written for nobody is counted as handed on; nothing came back.
        assert (line["bytes_out"], line["first_byte"], line["ending"]) == (0, None, "refused")


def test_the_tunnel_was_closed(watched: WatchedEdge):
    with ClientProcess.start(watched.edge, watched.listener.getsockname()[1]) as client:
        visitor, port = watched.visitor("tls", client)
        origin = watched.accept()
        origin.send(b"banner")
        assert visitor.receive() == b"banner"
    assert is_reset(visitor)
    line = watched.line_of(port)
    assert (line["bytes_in"], line["bytes_out"], line["ending"]) == (0, 6, "closed")


def test_curl_leaves_when_it_has_everything(watched: WatchedEdge, nginx):
    """curl reads the answer to its end and closes without close_notify; the log does not call that an error."""
    (nginx.root / "page").write_bytes(bytes(100_000))
    with ClientProcess.start(watched.edge, nginx.port) as client:
        url = f"https://{client.tunnel.host}:{client.tunnel.port}/page"
        where = f"{client.tunnel.host}:{client.tunnel.port}:127.0.0.1"
        close = ("--header", "Connection: close", "--resolve", where, "--write-out", "%{local_port}")
        ended = curl(watched.edge, *close, "--output", "/dev/null", url)
        assert ended.returncode == 0, ended.stderr
        line = watched.line_of(int(ended.stdout))
        assert line["ending"] in ("done", "left")
        assert line["bytes_out"] > 100_000
        assert line["alpn"] == "http/1.1"


@pytest.mark.long
def test_the_client_was_killed(watched: WatchedEdge):
    """Nothing is heard of it for 30 seconds; then it may come back for some more. Who was in is told that the
    tunnel is gone, and who comes then that nobody takes him."""
    with ClientProcess.start(watched.edge, watched.listener.getsockname()[1]) as client:
        visitor, port = watched.visitor("tcp", client)
        origin = watched.accept()
        visitor.send(b"hello")
        assert origin.receive() == b"hello"
        client.process.kill()
        eventually(lambda: watched.figures()["sessions", "away"] == 1, "it is not missed", 40)
        late, late_port = watched.visitor("tcp", client)
        line = watched.line_of(late_port, 20)
        assert (line["bytes_in"], line["bytes_out"], line["first_byte"]) == (0, 0, None)
        assert line["ending"] == "sent_away"
        assert 9.5 <= line["seconds"] <= 12
        assert is_reset(late)
        line = watched.line_of(port, 20)
        assert (line["bytes_in"], line["bytes_out"], line["ending"]) == (5, 0, "closed")
        assert 40 <= line["seconds"] <= 60


def test_visitors_have_distinct_numbers(watched: WatchedEdge):
    for _ in range(3):
        visitor, _, port = watched.pair("tcp")
        reset(visitor)
        watched.line_of(port)
    numbers = [line["visit"] for line in watched.lines() if "visit" in line]
    assert len(numbers) == len(set(numbers)) >= 3


def test_client_name_breaks_no_log_line(watched: WatchedEdge):
    """Everything in the log is an object with the four fields, whatever peers have said so far."""
    for line in watched.lines():
        assert {"time", "level", "logger", "message"} <= set(line)
        assert line["message"].isprintable()


def test_the_figures_match_a_known_load(watched: WatchedEdge):
    before = watched.figures()
    for _ in range(20):
        visitor, _, port = watched.pair("tls")
        reset(visitor)
        watched.line_of(port)
    watched.pair("tcp")
    socket.create_connection(("127.0.0.1", watched.client.tunnel.port)).close()
    eventually(lambda: watched.figures()["newcomers_total", "left"] > before["newcomers_total", "left"], "left")
    after = watched.figures()
    grown = {key: after[key] - before[key] for key in after}
    assert grown["visitors_begun_total", "tls"] == 20
    assert grown["visitors_begun_total", "tcp"] == 1
    assert grown["visitors", "tcp"] == 1
    assert grown["visitors_ended_total", "visitor"] == 20
    assert grown["newcomers_total", "welcome"] == 20
    assert grown["visitor_bytes_total", "in"] == 21 * len("hello")
    assert grown["visitor_bytes_total", "out"] == 21 * len("welcome")
    assert grown["visit_seconds_count",] == 20
    assert grown["visit_first_byte_seconds_count",] == 20
    # One QUIC connection that carries them, headers and TLS on top of the bytes.
    assert after["sessions", "connected"] >= 1
    assert after["tunnels",] >= 1
    assert grown["quic_bytes_total", "out"] > 21 * len("hello")
    assert grown["udp_datagrams_total", "in"] > 0
    assert 0 < after["quic_rtt_seconds", "worst"] < 5
    assert after["log_records_total", "error"] == 0
    assert after["certificate_expiry_timestamp_seconds", "clients"] > time.time()


def test_figures_are_for_who_has_the_token(watched: WatchedEdge):
    assert watched.ask("/metrics", token=False).stdout.endswith(b"\n401")
    assert b"quictunnel" not in watched.ask("/metrics", token=False).stdout


def test_health_is_for_everybody(watched: WatchedEdge):
    body, _, status = watched.ask("/readyz", token=False).stdout.rpartition(b"\n")
    assert (status, json.loads(body)["ready"]) == (b"200", True)
    body, _, status = watched.ask("/healthz", token=False).stdout.rpartition(b"\n")
    assert (status, json.loads(body)["alive"]) == (b"200", True)


def health(state_dir: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_server", "health", "--state-dir", str(state_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, **more)


def test_the_command_says_that_it_is_ready(watched: WatchedEdge):
    # A proxy of the environment is none of its business.
    ended = health(watched.edge.state_dir, env=os.environ | {"http_proxy": "http://127.0.0.1:9"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ready\n", "")


def test_the_command_says_that_there_is_no_edge(tmp_path):
    ended = health(tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("not ready: no edge is running with --state-dir")


def test_killed_edge_is_not_ready(tmp_path):
    edge = start_edge(tmp_path / "state")
    assert health(edge.state_dir).returncode == 0
    edge.stop(signal.SIGKILL)
    ended = health(edge.state_dir)
    assert ended.returncode == 1
    assert "not ready: udp: nothing listens at UDP 127.0.0.1 port " in ended.stderr


def test_the_dump_has_everything_but_secrets(watched: WatchedEdge):
    visitor, origin, port = watched.pair("tls")
    file = watched.edge.state_dir / "dump.json"
    os.kill(watched.edge.pid, signal.SIGUSR1)
    eventually(lambda: any(str(file) in line["message"] for line in watched.lines()), "nothing was said of it")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    state = json.loads(text)
    name = watched.client.tunnel.host.partition(".")[0]
    (found,) = [entry for entry in state["visitors"]["entries"] if entry["visitor_port"] == port]
    assert (found["name"], found["bytes_in"], found["bytes_out"], found["has_client"]) == (name, 5, 7, True)
    (tunnel,) = [entry for entry in state["tunnels"]["entries"] if entry["name"] == name]
    assert (tunnel["has_client"], tunnel["tcp_port"]) == (True, watched.client.tunnel.unencrypted_port)
    session = next(entry for entry in state["sessions"]["entries"] if name in entry["tunnels"])
    assert session["link"]["packets_received"] > 0
    assert state["figures"]["tunnels"][0]["value"] >= 1
    assert "left_out" in state["visitors"]
    for secret in ("token", "admin.token"):
        assert (watched.edge.state_dir / secret).read_text().strip() not in text
    for key in ("ticket.key", "reset.key"):
        content = (watched.edge.state_dir / key).read_bytes()
        assert content.hex() not in text
    line = next(line for line in watched.lines() if str(file) in line["message"])
    assert line["level"] == "info"
    reset(visitor)
    reset(origin)


def test_an_edge_that_is_about_to_stop_is_alive_and_not_ready(tmp_path, engines):
    with contextlib.ExitStack() as stack:
        watched = WatchedEdge(tmp_path, stack, grace=30)
        visitor, origin, _ = watched.pair("tcp")
        visitor.send(b"and then?")  # waits for an answer, so that there is somebody to wait for
        assert watched.ask("/readyz", token=False).stdout.endswith(b"\n200")
        watched.edge.process.send_signal(signal.SIGTERM)
        eventually(lambda: watched.ask("/readyz", token=False).stdout.endswith(b"\n503"), "it is still ready")
        body, _, _ = watched.ask("/readyz", token=False).stdout.rpartition(b"\n")
        (check,) = [check for check in json.loads(body)["checks"] if not check["ok"]]
        assert check == {
            "name": "serving",
            "ok": False,
            "why": "the edge is draining and accepts no new connections",
        }
        assert watched.ask("/healthz", token=False).stdout.endswith(b"\n200")
        assert watched.figures()["draining",] == 1
        ended = health(watched.edge.state_dir)
        assert (ended.returncode, ended.stderr) == (
            1,
            "not ready: serving: the edge is draining and accepts no new connections\n",
        )
        for end in (visitor, origin):
            end.sock.close()
        assert watched.edge.process.wait(SOCKET_TIMEOUT) == 0


def test_connections_of_an_edge_that_runs_are_traced_on_request(tmp_path, engines):
    """By the configuration, read again."""
    config, traces = tmp_path / "edge.toml", tmp_path / "traces"
    config.write_text("")
    with contextlib.ExitStack() as stack:
        watched = WatchedEdge(tmp_path, stack, "--config", str(config))
        for text, word in (('qlog = "traces"', "changed: qlog"), ("", "changed: qlog")):
            before = len(watched.lines())
            config.write_text(text)
            watched.edge.process.send_signal(signal.SIGHUP)
            said = lambda: any(word in line["message"] for line in watched.lines()[before:])  # noqa: B023, E731
            eventually(said, "the configuration was not read")
            visitor, origin, _ = watched.pair("tls")
            reset(visitor)
            assert is_reset(origin)
        (trace,) = traces.iterdir()
        assert stat.S_IMODE(trace.stat().st_mode) == 0o600
        names = [json.loads(record).get("name") for record in trace.read_text().split("\x1e")[1:]]
        assert names.count("transport:datagrams_received") > 1
        for sock in watched.ends:
            sock.close()


def test_a_client_traces_its_connections_when_the_environment_says_so(watched: WatchedEdge, tmp_path, monkeypatch):
    monkeypatch.setenv("QUICTUNNEL_QLOG", str(tmp_path / "traces"))
    with ClientProcess.start(watched.edge, free_port()):
        pass
    (trace,) = (tmp_path / "traces").iterdir()
    records = [json.loads(record) for record in trace.read_text().split("\x1e")[1:]]
    assert records[0]["trace"]["vantage_point"]["type"] == "client"
    assert records[-1]["name"] == "connectivity:connection_closed"
