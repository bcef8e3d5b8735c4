"""Tests of what tenants learn of each other, unauthenticated peers of names, and anybody of secrets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import quictunnel
from tests.harness.edge_process import children_environment, start_edge
from tests.harness.sockets import SOCKET_TIMEOUT, end, first_line, program
from tests.harness.token_commands import client_of, new_token
from tests.harness.visitors import curl, tls_connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.edge_process import EdgeProcess

SAMPLES = 300


@contextlib.contextmanager
def listening() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOCKET_TIMEOUT)
        yield listener


def test_a_request_for_one_tenant_never_reaches_another(edge: EdgeProcess):
    """The name in TLS decides; what HTTP says is the origin's business."""
    with (
        listening() as ours,
        listening() as theirs,
        client_of(edge, new_token(edge)) as one,
        client_of(edge, new_token(edge)) as other,
        quictunnel.forward(ours.getsockname()[1], client=one) as a,
        quictunnel.forward(theirs.getsockname()[1], client=other) as b,
        tls_connect(edge, a, alpn=["h2", "http/1.1"]) as visitor,
    ):
        assert visitor.selected_alpn_protocol() == "http/1.1"  # so that no browser sends b's requests here
        request = f"GET / HTTP/1.1\r\nHost: {b.host}\r\n\r\n".encode()
        visitor.sendall(request)
        origin, _ = ours.accept()
        with origin:
            origin.settimeout(SOCKET_TIMEOUT)
            assert origin.recv(4096) == request
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.accept()


def test_a_connection_with_h2_is_good_for_one_name_alone(edge: EdgeProcess, client: quictunnel.Client):
    """Browsers look at the certificate before they send requests for another name on the connection (RFC 9113
    section 9.1.1)."""
    with (
        quictunnel.forward(1, h2_enabled=True, client=client) as a,
        quictunnel.forward(2, h2_enabled=True, client=client) as b,
        tls_connect(edge, a, alpn=["h2"]) as visitor,
    ):
        assert visitor.selected_alpn_protocol() == "h2"
        names = [value for kind, value in visitor.getpeercert()["subjectAltName"] if kind == "DNS"]
        assert names == [a.host]
        assert b.host not in names


def rejection_of(edge: EdgeProcess, port: int, name: str) -> tuple[str, float]:
    """Return the error that a rejected visitor gets, and the seconds until then."""
    context = ssl.create_default_context(cafile=str(edge.ca))
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), SOCKET_TIMEOUT) as raw, pytest.raises(OSError) as caught:  # noqa: PT011
        context.wrap_socket(raw, server_hostname=name)
    return str(caught.value), time.perf_counter() - began


@pytest.fixture
def edge_without_pages(tmp_path: Path) -> Iterator[EdgeProcess]:
    """With pages, strangers beyond their bound get the alert, so 1,500 in a row would get a mixture."""
    edge = start_edge(tmp_path / "state", "--error-pages", "off")
    yield edge
    assert edge.stop() == 0


def test_a_name_that_is_not_there_is_as_one_that_never_was(edge_without_pages: EdgeProcess):
    """In what is said, and in how long it takes: given back, claimed and not in use, forbidden, unknown, no
    name."""
    edge = edge_without_pages
    with edge.client() as client:
        compare_rejections(edge, client)


def compare_rejections(edge: EdgeProcess, client: quictunnel.Client) -> None:
    with quictunnel.forward(1, client=client) as tunnel:
        port, gone = tunnel.port, tunnel.host
    with quictunnel.forward(1, name="in-use-once", client=client) as tunnel:
        claimed = tunnel.host
    kinds = [gone, claimed, "abcdefghijklmno2.tunnel.localhost", "www.tunnel.localhost"]
    with quictunnel.forward(1, client=client, allow=["192.0.2.0/24"]) as forbidden:
        kinds.append(forbidden.host)
        found: dict[str, list[float]] = {kind: [] for kind in kinds}
        said = set()
        for _ in range(SAMPLES):
            for kind in kinds:
                words, seconds = rejection_of(edge, port, kind)
                said.add(words)
                found[kind].append(seconds)
    assert len(said) == 1
    medians = [statistics.median(taken) for taken in found.values()]
    spread = statistics.quantiles([seconds for taken in found.values() for seconds in taken], n=4)
    assert max(medians) - min(medians) < max(0.1 * min(medians), 0.2 * (spread[2] - spread[0])), medians


FAILING = """
import faulthandler, sys, quictunnel
faulthandler.enable()
client = quictunnel.Client.from_env()
print(client, client.config, vars(client), client.snapshot(), flush=True)
with quictunnel.forward(int(sys.argv[1]), name="shown") as tunnel:
    print(tunnel, flush=True)
    sys.stdin.readline()
    raise RuntimeError(f"the program's own fault: {client!r} {vars(client)}")
"""


def test_secrets_are_nowhere(tmp_path: Path):
    """Not in the log at its most talkative, not in errors and crash reports, not in the list of processes, and not
    in files that others may read."""
    edge = start_edge(tmp_path / "state", "--log-level", "debug")
    token, wrong = new_token(edge), "qt1.aaaaaaaaaa." + "b" * 43
    with client_of(edge, wrong) as client, pytest.raises(quictunnel.AuthError) as caught:
        quictunnel.forward(1, client=client).__enter__()
    reports = ["".join(traceback.format_exception(caught.value)), repr(client), repr(client.config)]
    with listening() as origin:
        environ = children_environment(edge) | {"QUICTUNNEL_TOKEN": token}
        child = program([sys.executable, "-c", FAILING, str(origin.getsockname()[1])], environ)
        reports.append(first_line(child))
        assert "shown" in first_line(child)
        reports += [Path(f"/proc/{pid}/cmdline").read_text() for pid in (edge.pid, child.pid)]
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
        assert end(child) == 1
    fetched = curl(edge, "--verbose", f"https://nobody.tunnel.localhost:{edge.config.address[1]}/")
    reports.append(fetched.stderr.decode())
    own = edge.environ["QUICTUNNEL_TOKEN"]
    assert edge.stop() == 0
    reports.append(edge.state_dir.with_suffix(".log").read_text())
    assert "shown.tunnel.localhost" in reports[-1]  # it is the log that is meant
    for report in reports:
        for secret in (token, wrong, own, token.rpartition(".")[2], own[-20:]):
            assert secret not in report
    shared = [path.name for path in edge.state_dir.iterdir() if path.stat().st_mode & 0o077]
    assert set(shared) <= {"ca.pem", "quic.pem"}
    assert edge.state_dir.stat().st_mode & 0o077 == 0


def test_a_state_directory_is_not_read_by_others(tmp_path: Path):
    """The directory is private with any umask."""
    code = "import os; os.umask(0); import sys; from edge_server.__main__ import main; main(sys.argv[1:])"
    state = tmp_path / "state"
    command = [sys.executable, "-c", code, "token", "create", "--state-dir", str(state)]
    subprocess.run(command, check=True, capture_output=True, cwd=Path(__file__).parents[3])
    assert state.stat().st_mode & 0o077 == 0
    assert [path.name for path in state.iterdir() if path.stat().st_mode & 0o077] == []
