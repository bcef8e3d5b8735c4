"""One edge at a time serves with a state directory; the next one gets it at once, however the last one ended."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import quictunnel
from tests.harness.echo_origin import EchoOrigin, serves
from tests.harness.edge_process import EdgeProcess, start_edge
from tests.harness.waiting import eventually

PATIENCE = 30
GRACE = ("--grace", "20")


@pytest.fixture
def first(tmp_path, engines):
    edge = start_edge(tmp_path / "state", *GRACE)
    yield edge
    edge.stop()


@pytest.fixture
def origin():
    with EchoOrigin() as origin:
        yield origin


def attempt(state_dir: Path, *options: str) -> str:
    """Start an edge that should not start. Return what it prints."""
    command = [sys.executable, "-m", "edge_server", "--state-dir", str(state_dir)]
    free = ["--quic", "127.0.0.1:0", "--https", "127.0.0.1:0"]
    done = subprocess.run(
        [*command, *free, *options], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def assert_refused(edge: EdgeProcess) -> None:
    assert attempt(edge.state_dir) == (
        f"edge_server: error: An edge (process {edge.pid}) already runs with the state directory "
        f"{edge.state_dir}: use --takeover to replace it, or another directory.\n"
    )


def files(edge: EdgeProcess) -> dict[str, tuple[int, int]]:
    found = {path.name: path.lstat() for path in edge.state_dir.iterdir() if not path.name.startswith("held.db")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def test_a_second_edge_is_refused_and_changes_nothing(first, origin):
    before = files(first)
    assert_refused(first)
    assert files(first) == before
    with first.client() as client, quictunnel.forward(origin.port, client=client) as tunnel:
        assert serves(first, tunnel)
    health = [sys.executable, "-m", "edge_server", "health", "--state-dir", str(first.state_dir)]
    assert subprocess.run(health, timeout=PATIENCE, check=False).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_edge_starts_at_once(first, number):
    first.stop(number)
    second = start_edge(first.state_dir)
    assert_refused(second)
    assert second.stop() == 0


def test_a_successor_holds_it_and_a_draining_predecessor_does_not(first, origin):
    with first.client() as client, quictunnel.forward(origin.port, client=client, unencrypted=True) as tunnel:
        with socket.create_connection(tunnel.tcp_socket, PATIENCE) as visitor:
            visitor.sendall(b"stay")
            assert visitor.recv(100) == b"stay"
            second = start_edge(first.state_dir, "--takeover", *GRACE)
            assert_refused(second)
            assert first.process.poll() is None, "it has a visitor"
            second.stop(signal.SIGKILL)
            third = start_edge(first.state_dir)
            assert first.process.poll() is None
            assert_refused(third)
        assert first.process.wait(PATIENCE) == 0
        assert_refused(third)
        assert third.stop() == 0


def test_a_successor_by_a_signal_holds_it(first):
    first.process.send_signal(signal.SIGUSR2)
    assert first.process.wait(PATIENCE) == 0
    found = re.search(r"process ([0-9]+)", attempt(first.state_dir))
    assert found is not None
    assert int(found[1]) != first.pid
    os.kill(int(found[1]), signal.SIGTERM)
    eventually(lambda: not (first.state_dir / "client.env").exists(), timeout=PATIENCE)


@pytest.mark.parametrize("options", [["--domain", "other.example"], ["--cert", "nowhere", "--key", "nowhere"]])
def test_it_stays_with_the_predecessor_of_a_failed_successor(first, options):
    assert "already runs" not in attempt(first.state_dir, "--takeover", *options)
    assert_refused(first)
    second = start_edge(first.state_dir, "--takeover")
    assert first.process.wait(PATIENCE) == 0
    assert_refused(second)
    assert second.stop() == 0


def test_a_takeover_without_the_socket_is_refused(first):
    (first.state_dir / "edge.sock").unlink()
    said = attempt(first.state_dir, "--takeover")
    assert (
        f"error: An edge (process {first.pid}) already runs with the state directory {first.state_dir}: " in said
    )
    assert said.endswith("it does not hand over; stop it, or use another directory.\n")
