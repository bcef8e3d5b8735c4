"""The operator's HTTP server begins and ends with its edge, and says what it needs."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx

import quictunnel
from edge_server.admin.operations import PREFIX
from tests.harness.admin_client import AdminClient
from tests.harness.edge_process import start_edge
from tests.harness.sockets import SOCKET_TIMEOUT
from tests.harness.waiting import eventually

ROOT = Path(__file__).parents[3]


def page_of(state: Path) -> AdminClient:
    return AdminClient((state / "admin.url").read_text(), (state / "admin.token").read_text())


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def command(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "edge_server", "admin", *words, "--state-dir", str(state))


def test_admin_server_ends_with_its_edge(tmp_path: Path):
    """A token of its own that is nowhere but in its file, a link to it, and the drain."""
    state = tmp_path / "state"
    edge = start_edge(state, "--admin", "0", "--log-level", "debug")
    assert (state / "admin.token").stat().st_mode & 0o777 == 0o600
    token = (state / "admin.token").read_text()
    assert token != (state / "token").read_text()
    link = command(state, "url").stdout.strip()
    url = (state / "admin.url").read_text()
    assert link == f"{url}#token={token}"
    assert json.loads(command(state, "url", "--json").stdout) == {"url": url, "token": token, "link": link}
    with page_of(state) as operator:
        assert operator.get("/edge")["process"] == edge.pid
        with operator.follow() as following:
            assert operator.do("/drain").json() == {"action": "drain", "target": ""}
            with contextlib.suppress(httpx.RemoteProtocolError):
                following.read()  # ends with the edge
    assert edge.process.wait(SOCKET_TIMEOUT) == 0
    edge.stop()
    log = state.with_suffix(".log").read_text()
    assert "the operator at 127.0.0.1 drains the edge" in log
    assert f"the operator's page is at {url}; its token is in {state / 'admin.token'}" in log
    assert token not in log
    assert token.rpartition(".")[2] not in log
    assert "Traceback" not in log, "it ends in order, although somebody follows"
    assert not (state / "admin.url").exists()
    gone = command(state, "url")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "No edge with --admin is running" in gone.stderr


def test_a_successor_has_the_address(tmp_path: Path):
    state = tmp_path / "state"
    edge = start_edge(state, "--admin", "127.0.0.1:0", "--grace", "20")
    port = str(httpx.URL((state / "admin.url").read_text()).port)
    (server,) = [socket.create_server(("127.0.0.1", 0))]
    with server, contextlib.ExitStack() as stack:
        client = stack.enter_context(edge.client())
        tunnel = stack.enter_context(quictunnel.forward(server.getsockname()[1], unencrypted=True, client=client))
        visitor = stack.enter_context(socket.create_connection(tunnel.tcp_socket, SOCKET_TIMEOUT))
        visitor.sendall(b"x")
        origin = stack.enter_context(server.accept()[0])
        with page_of(state) as operator, operator.follow() as following:
            successor = start_edge(state, "--admin", f"127.0.0.1:{port}", "--takeover")
            stack.callback(successor.stop)
            with contextlib.suppress(httpx.RemoteProtocolError):
                following.read()  # the one that leaves sends away

            def is_there() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return bool(operator.get("/edge")["process"] == successor.pid)
                return False

            eventually(is_there, "the successor has no page")
            assert edge.process.poll() is None, "its visitor is still there"
        visitor.close()
        origin.close()
        assert edge.process.wait(SOCKET_TIMEOUT) == 0
        edge.stop()
    assert successor.stop() == 0
    assert not (state / "admin.url").exists()


def test_address_in_use_is_reported(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = edge_that_fails(tmp_path, f"127.0.0.1:{port}")
    assert ended.returncode == 2
    assert f"--admin: port {port} of 127.0.0.1 is taken" in ended.stderr
    assert not (tmp_path / "admin.url").exists()


def test_missing_extra_names_the_package(tmp_path: Path):
    for missing in ("starlette", "uvicorn", "prometheus_client"):
        ended = edge_that_fails(tmp_path, "0", f"import sys; sys.modules[{missing!r}] = None\n")
        assert ended.returncode == 2
        assert re.fullmatch(r"quictunnel-edge: error: .*pip install 'quictunnel\[edge\]'\.\n", ended.stderr)


def edge_that_fails(state: Path, admin: str, first: str = "") -> subprocess.CompletedProcess[str]:
    program = f"{first}from edge_server.__main__ import main\nraise SystemExit(main())"
    options = ["--state-dir", str(state), "--quic", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", admin]
    return python("-c", program, *options)


def test_public_admin_address_is_reported(tmp_path: Path):
    edge = start_edge(tmp_path / "state", "--admin", "0.0.0.0:0", "--admin-names", "edge,admin.example.com")
    with page_of(tmp_path / "state") as operator:
        assert operator.url.startswith("http://127.0.0.1:")
        assert operator.ask("/edge").status_code == 200
        for host in ("edge:9443", "admin.example.com"):
            behind = {"host": host, "origin": f"https://{host}"}
            assert operator.http.get(f"{PREFIX}/edge", headers=behind).status_code == 200
        assert operator.http.get(f"{PREFIX}/edge", headers={"host": "example.com"}).status_code == 421
    assert edge.stop() == 0
    log = (tmp_path / "state.log").read_text()
    line = next(
        line for line in log.splitlines() if "the operator's page can be reached from other machines" in line
    )
    assert " WARNING " in line
