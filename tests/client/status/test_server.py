"""Tests of finding running clients: sockets that answer, sockets of dead processes, and untrusted ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from quictunnel.shared.event_loop import EventLoopThread
from quictunnel.shared.files import own_directory
from quictunnel.shared.paths import default_runtime_dir
from quictunnel.status import client, server
from quictunnel.status.model import MAX_LISTED, Report, TunnelStatus
from quictunnel.status.server import MAX_CONNECTIONS, StatusServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and Unix sockets")


def tunnel_status(number: int = 0) -> TunnelStatus:
    url = f"https://t{number}.example.com"
    return TunnelStatus(url, "", 8000 + number, "e:1", "connected", "native", 0.01, 1, 2, 300, 400, 1.7e9)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def background() -> Iterator[EventLoopThread]:
    background = EventLoopThread("status-test")
    yield background
    background.stop()


@pytest.fixture(params=[True, False], ids=["unix", "port"])
def open_endpoint(
    request: pytest.FixtureRequest, directory: Path, background: EventLoopThread
) -> Iterator[Callable[[int], StatusServer]]:
    made: list[StatusServer] = []

    def status_server(tunnels: int) -> StatusServer:
        made.append(StatusServer(directory, unix=request.param))
        for number in range(tunnels):
            background.call(made[-1].add_tunnel(number, lambda number=number: tunnel_status(number)))
        return made[-1]

    yield status_server

    async def close() -> None:
        for each in made:
            each.close()

    background.call(close())


def test_status_socket_ends_with_the_last_tunnel(
    open_endpoint: Callable[[int], StatusServer], directory: Path, background: EventLoopThread
) -> None:
    assert client.query(directory) == client.QueryResult(), "no directory is nothing"
    status_server = open_endpoint(2)
    path = status_server.path
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    found = client.query(directory)
    assert [report.tunnels for report in found.reports] == [[tunnel_status(0), tunnel_status(1)]]
    assert (found.reports[0].pid, found.errors) == (os.getpid(), ())

    async def remove_tunnel(number: int) -> None:
        status_server.remove_tunnel(number)

    background.call(remove_tunnel(0))
    assert client.query(directory).reports[0].tunnels == [tunnel_status(1)]
    background.call(remove_tunnel(1))
    background.call(remove_tunnel(1))
    assert list(directory.iterdir()) == []
    background.call(status_server.add_tunnel("again", tunnel_status))
    assert len(client.query(directory).reports) == 1, "it opens again for the next one"


def test_a_long_list_is_cut_and_counted(open_endpoint: Callable[[int], StatusServer], directory: Path) -> None:
    open_endpoint(MAX_LISTED + 3)
    (report,) = client.query(directory).reports
    assert (len(report.tunnels), report.unlisted) == (MAX_LISTED, 3)
    long = TunnelStatus(
        **{**msgspec.structs.asdict(tunnel_status()), "url": "https://" + "x" * 253, "edge": "y" * 260}
    )
    whole = msgspec.json.encode(Report(1, "p" * 255, "s" * 64, [long] * MAX_LISTED))
    assert len(whole) < client.MAX_REPORT


def test_silent_readers_do_not_block_others(
    open_endpoint: Callable[[int], StatusServer], directory: Path, background: EventLoopThread
) -> None:
    status_server = open_endpoint(1)
    assert status_server.path is not None
    assert status_server._sock is not None
    address = status_server._sock.getsockname()
    with contextlib.ExitStack() as stack:
        for _ in range(3 * MAX_CONNECTIONS):
            silent = stack.enter_context(socket.socket(status_server._sock.family))
            silent.connect(address)

        async def at_rest() -> None:
            async with asyncio.timeout(10):
                while True:
                    assert status_server._connections <= 3 * MAX_CONNECTIONS
                    if status_server._connections == 0:
                        return
                    await asyncio.sleep(0.01)

        background.call(asyncio.sleep(0.05))
        background.call(at_rest())
        assert len(client.query(directory).reports) == 1


def test_without_the_key_a_port_says_nothing(directory: Path, background: EventLoopThread) -> None:
    status_server = StatusServer(directory, unix=False)
    background.call(status_server.add_tunnel(1, tunnel_status))
    assert status_server._sock is not None
    try:
        for said in (b"0" * 32, b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
            with socket.create_connection(status_server._sock.getsockname(), timeout=10) as other_socket:
                other_socket.sendall(said)
                other_socket.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    assert other_socket.recv(1000) == b""
    finally:
        background.loop.call_soon_threadsafe(status_server.close)


def test_sockets_of_dead_processes_are_removed(directory: Path) -> None:
    own_directory(directory)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(directory / f"{ended.pid}-0001.sock"))
    (directory / f"{ended.pid}-0002.port").write_bytes(b"")
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    (directory / f"{ended.pid}-0003.port").write_bytes(b"%d %s\n" % (port, b"0" * 32))
    (directory / "notes.txt").write_text("somebody's own")
    assert client.query(directory) == client.QueryResult()
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed the connection"),
        (b"{}", "cannot read"),
        (b"[" * 10_000, "cannot read"),
        (b"x" * (client.MAX_REPORT + 1), "too long"),
        (None, "timeout"),
    ],
    ids=["nothing", "another version", "nonsense", "endless", "silence"],
)
def test_malformed_answer_is_reported_and_its_socket_kept(
    answer: bytes | None, words: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "QUERY_TIMEOUT", 0.3)
    own_directory(directory)
    path = directory / f"{os.getpid()}-0001.sock"
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                if answer is None:
                    over.wait()
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        found = client.query(directory)
        over.set()
        thread.join()
    assert found.reports == ()
    assert words in found.errors[0]
    assert str(os.getpid()) in found.errors[0]
    assert path.exists()


def test_more_processes_than_are_asked(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_PROCESSES", 2)
    own_directory(directory)
    for number in range(5):
        (directory / f"{number}.port").write_bytes(b"")
    assert client.query(directory).unqueried == 3


def test_a_directory_that_others_may_write_is_not_trusted(
    directory: Path, background: EventLoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    with pytest.raises(PermissionError, match="not a directory of this user alone"):
        client.query(directory)
    with caplog.at_level("INFO"):
        background.call(StatusServer(directory).add_tunnel(1, tunnel_status))
    assert "will not show this process" in caplog.text
    assert list(directory.iterdir()) == []


def test_tunnel_works_without_a_status_socket(
    tmp_path: Path, background: EventLoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    status_server = StatusServer(tmp_path / "file" / "run")
    with caplog.at_level("INFO"):
        background.call(status_server.add_tunnel(1, tunnel_status))
    assert "will not show this process" in caplog.text
    assert status_server.path is None


def test_long_socket_path_falls_back_to_a_port(tmp_path: Path, background: EventLoopThread) -> None:
    directory = tmp_path / ("x" * 120)
    status_server = StatusServer(directory)
    background.call(status_server.add_tunnel(1, tunnel_status))
    try:
        assert status_server.path is not None
        assert status_server.path.suffix == server.PORT_FILE
        assert stat.S_IMODE(status_server.path.stat().st_mode) == 0o600
        assert len(client.query(directory).reports) == 1
    finally:
        background.loop.call_soon_threadsafe(status_server.close)


@pytest.mark.parametrize(
    ("started", "name"),
    [("/x/app.py", "app.py"), ("/x/quictunnel/__main__.py", "quictunnel"), ("-c", "python"), ("", "python")],
)
def test_program_name_is_reported(started: str, name: str) -> None:
    assert server._program(started) == name


@pytest.mark.parametrize(
    ("platform", "environ", "path"),
    [
        ("linux", {"XDG_RUNTIME_DIR": "/run/user/7"}, "/run/user/7/quictunnel"),
        ("linux", {"XDG_RUNTIME_DIR": "relative"}, f"/tmp/quictunnel-{os.geteuid()}"),
        ("linux", {}, f"/tmp/quictunnel-{os.geteuid()}"),
        ("darwin", {"TMPDIR": "/var/x/T", "XDG_RUNTIME_DIR": "/x"}, "/var/x/T/quictunnel"),
        ("win32", {"XDG_STATE_HOME": "/local"}, "/local/quictunnel/run"),
    ],
)
def test_places(monkeypatch: pytest.MonkeyPatch, platform: str, environ: dict[str, str], path: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    for variable in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    assert str(default_runtime_dir()) == path


@pytest.mark.parametrize(
    ("value", "wanted"), [("off", False), ("0", False), ("NO", False), ("", True), ("on", True)]
)
def test_the_switch(value: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(server.SWITCH_VARIABLE, value)
    assert server.is_enabled() == wanted


PROGRAM = """
import os, sys, time
sys.argv = ["/somewhere/my-app.py", "--password", "hunter2"]
import quictunnel
from edge_server.embedded import EmbeddedEdge
with EmbeddedEdge() as edge:
    config = edge.client_config
    with quictunnel.Client.from_config(config) as client, quictunnel.forward(9, client=client) as tunnel:
        child = os.fork() if "fork" in os.environ["MODE"] else -1
        if child == 0:
            sys.stdin.read()
            os._exit(0)
        print(tunnel.url, os.getpid(), config.token.reveal(), flush=True)
        sys.stdin.read()
        if child > 0:
            os.waitpid(child, 0)
"""


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], list[str]]]]:
    with contextlib.ExitStack() as stack:

        def start(mode: str, **environ: str) -> tuple[subprocess.Popen[str], list[str]]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM],
                    env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "MODE": mode} | environ,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            return process, process.stdout.readline().split()

        yield start


def run_status(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quictunnel", "status", *options],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("mode", ["plain", "fork"])
def test_program_is_listed_until_it_is_killed(
    mode: str, tmp_path: Path, program: Callable[[str], tuple[subprocess.Popen[str], list[str]]]
) -> None:
    done = run_status(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    said = "No program of this user has a tunnel on this machine. `quictunnel http PORT` opens one.\n"
    assert done.stderr == said

    process, (url, pid, token) = program(mode)
    done = run_status(tmp_path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (seen,) = map(json.loads, done.stdout.splitlines())
    assert (seen["url"], seen["port"], seen["pid"], seen["program"]) == (url, 9, int(pid), "my-app.py")
    assert (seen["state"], seen["visitors_total"], seen["rate_in"], seen["rate_out"]) == ("connected", 0, 0, 0)
    assert 0 < seen["rtt"] < 5
    assert 0 <= seen["uptime"] < 60
    people = run_status(tmp_path).stdout
    assert people.startswith(f"{url} -> localhost:9\n  connected, ")
    for text in (done.stdout, people):
        assert token not in text
        assert "hunter2" not in text

    process.send_signal(signal.SIGKILL)
    process.wait()
    # In "fork" a child lives on that has inherited the socket, and holds it open for nobody.
    assert len(list((tmp_path / "quictunnel").iterdir())) == 1
    assert run_status(tmp_path).returncode == 1
    assert list((tmp_path / "quictunnel").iterdir()) == []


def test_ended_and_hidden_programs_are_not_listed(
    tmp_path: Path, program: Callable[..., tuple[subprocess.Popen[str], list[str]]]
) -> None:
    process, _ = program("plain")
    assert len(list((tmp_path / "quictunnel").iterdir())) == 1
    process.communicate("", timeout=30)
    assert list((tmp_path / "quictunnel").iterdir()) == []
    program("plain", QUICTUNNEL_STATUS="off")
    assert list((tmp_path / "quictunnel").iterdir()) == []
