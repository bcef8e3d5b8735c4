"""Log lines of whole edges: drains, takeovers, probes, and systemd's journal."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import quictunnel
from tests.harness.echo_origin import EchoOrigin, echoes
from tests.harness.edge_process import start_edge
from tests.harness.token_commands import command
from tests.harness.visitors import tls_connect
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO   |WARNING|ERROR  ) \[(\d+)\] (.*)")


def lines(state: Path) -> list[tuple[int, str]]:
    """Return process and message of each line of an edge's log."""
    found = [LINE.fullmatch(line) for line in state.with_suffix(".log").read_text().splitlines()]
    assert None not in found
    return [(int(match[2]), match[3]) for match in found if match is not None]


def test_a_stop_says_how_many_visitors_it_waits_for_and_cuts(tmp_path: Path):
    edge = start_edge(tmp_path / "state", "--grace", "1")
    with (
        EchoOrigin() as origin,
        edge.client() as client,
        quictunnel.forward(origin.port, client=client) as tunnel,
        tls_connect(edge, tunnel) as visitor,
    ):
        assert echoes(visitor)
        edge.process.send_signal(signal.SIGTERM)
        eventually(lambda: edge.process.poll() is not None, "it did not end", timeout=30)
    edge.stop()
    said = [message for pid, message in lines(edge.state_dir) if pid == edge.pid]
    assert "draining: 1 visitor, at most 1 s" in said
    assert any(re.fullmatch(r"drain(ed| ended) after .* 1 visitor .*", message) for message in said), said


def test_after_a_takeover_each_line_says_of_which_process_it_is(tmp_path: Path):
    first = start_edge(tmp_path / "state", "--grace", "1")
    second = start_edge(tmp_path / "state", "--takeover")
    first.process.wait(30)
    first.stop()
    said = lines(first.state_dir)
    assert (first.pid, f"taken over by pid {second.pid}; draining: 0 visitors, at most 1 s") in said
    assert (second.pid, f"taking over from the edge with pid {first.pid}") in said
    assert any(pid == first.pid and message.startswith("drained after ") for pid, message in said)
    assert second.stop() == 0


def test_probes_of_this_machine_are_no_strangers(tmp_path: Path):
    """Neither the health check without the operator's page, nor a client or a doctor of this machine."""
    edge = start_edge(tmp_path / "state")
    assert "the QUIC socket responds" in command(edge, "health")
    with edge.client() as client, quictunnel.forward(9, client=client):
        pass
    doctor = [sys.executable, "-m", "quictunnel", "doctor"]
    environ = os.environ | edge.environ | {"HOME": str(tmp_path)}
    subprocess.run(doctor, env=environ, check=False, capture_output=True, timeout=60)
    assert edge.stop() == 0
    said = [message for _, message in lines(edge.state_dir)]
    assert any("connected (quictunnel/" in message for message in said)
    assert not [message for message in said if "without a token" in message or "stranger" in message]


def test_lines_for_the_journal_have_a_priority_and_no_date(tmp_path: Path):
    """As systemd starts a service: standard error is a socket that JOURNAL_STREAM names."""
    journal, ours = socket.socketpair()
    status = os.fstat(ours.fileno())
    with journal, ours:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "edge_server", "--state-dir", str(tmp_path / "state")),
                *("--quic", "127.0.0.1:0", "--https", "127.0.0.1:0"),
            ],
            env=os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
            stdout=subprocess.PIPE,
            stderr=ours,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Try:"):
                break
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()
        ours.close()
        with journal.makefile() as reader:
            said = reader.read().splitlines()
    assert said
    assert all(
        re.match(r"<[3-7]>[^0-9<]", line) or re.match(r"<[3-7]>\d+ file descriptors", line) for line in said
    ), said
    assert "<6>draining: 0 visitors, at most 30 s" in said
