"""Real programs around a real edge process: what a user has."""

import contextlib
import errno
import hashlib
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import quictunnel
from edge_server.embedded import EmbeddedEdge
from quictunnel.config.client_config import ClientConfig, load
from tests.harness import browser, engine_pairing

START_TIMEOUT = 20


@pytest.fixture(scope="session", autouse=True)
def engines(pairing_in_force) -> engine_pairing.Pairing:
    """Every test of this room runs with an engine on each side, which may differ. Fixtures that start one and
    outlive a test ask for this one, so that they end with it."""
    return pairing_in_force


def need(program: str) -> str:
    """The path of a program, or a visible skip."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@dataclass
class EdgeProcess:
    """``python -m edge_server`` as its user starts it."""

    process: subprocess.Popen
    state_dir: Path
    banner: str = ""
    """What it printed when it was ready."""

    @property
    def ca(self) -> Path:
        return self.state_dir / "ca.pem"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs, as client.env says it."""
        lines = (self.state_dir / "client.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def config(self) -> ClientConfig:
        more = {"HOME": str(self.state_dir), engine_pairing.VARIABLE: os.environ[engine_pairing.VARIABLE]}
        return load(self.environ | more)

    def client(self) -> quictunnel.Client:
        return quictunnel.Client.from_config(self.config)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(timeout)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


def start_edge(
    state_dir: Path,
    *options: str,
    log: Path | None = None,
    prefix: tuple[str, ...] = (),
    close_fds: bool = True,
) -> EdgeProcess:
    """Start an edge on free ports and wait until it says that it serves. ``prefix`` is a command that runs it,
    such as one that enters a network namespace."""
    command = [*prefix, sys.executable, "-m", "edge_server", "--state-dir", str(state_dir)]
    if "--quic" not in options:
        command += ["--quic", "127.0.0.1:0"]
    if "--https" not in options:
        command += ["--https", "127.0.0.1:0"]
    output = (log or state_dir.with_suffix(".log")).open("ab")
    with output:
        process = subprocess.Popen(
            [*command, *options],
            env=os.environ | {engine_pairing.VARIABLE: engine_pairing.edge_engine()},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            cwd=Path(__file__).parents[2],
            close_fds=close_fds,
        )
    assert process.stdout is not None
    banner = ""
    for line in process.stdout:  # the banner comes when it serves; the end of the output when it failed
        banner += line
        if line.startswith("Try:"):
            return EdgeProcess(process, state_dir, banner)
    process.stdout.close()
    process.wait(START_TIMEOUT)
    raise AssertionError(f"the edge did not start: {(log or state_dir.with_suffix('.log')).read_text()}")


def embedded_edge(*, admin: bool = False) -> EmbeddedEdge:
    """An edge in this process."""
    return EmbeddedEdge(engine=engine_pairing.edge_engine(), admin=admin)


@pytest.fixture(scope="session")
def shared_edge(tmp_path_factory, engines):
    """One edge for all tests that do not disturb it."""
    edge = start_edge(tmp_path_factory.mktemp("edge") / "state")
    yield edge
    assert edge.stop() == 0
    assert not (edge.state_dir / "client.env").exists()


@pytest.fixture
def edge(shared_edge):
    assert shared_edge.process.poll() is None
    return shared_edge


@pytest.fixture
def client(edge):
    with edge.client() as client:
        yield client


@pytest.fixture
def running():
    """Start a program that ends with the test: ``running(["nginx", ...])``."""
    with contextlib.ExitStack() as stack:

        def start(command, **options):
            process = subprocess.Popen([str(part) for part in command], **options)

            def end():
                if process.poll() is None:
                    process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

            stack.callback(end)
            return process

        yield start


@pytest.fixture
def origin():
    """Says hello to everybody and keeps the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as kept:

        def serve() -> None:
            with contextlib.suppress(OSError):  # the listener is closed in the end
                while True:
                    visitor = kept.enter_context(listener.accept()[0])
                    visitor.sendall(b"hello")

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def wait_for_port(port: int, host: str = "127.0.0.1", timeout: float = 20) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def curl(edge: EdgeProcess, *arguments: str, **options) -> subprocess.CompletedProcess:
    """curl, verifying the certificate."""
    command = [need("curl"), "--silent", "--show-error", "--cacert", str(edge.ca), "--noproxy", "*", *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=100, **options)


def browsing(edge: EdgeProcess, tunnel: quictunnel.Tunnel, profile: Path, *more: str) -> list[str]:
    """The command line of a browser that takes the tunnel's certificate for a good one, and no other."""
    need(browser.PROGRAM)
    with tls_connect(edge, tunnel) as visitor:
        trust = browser.trusting(visitor.getpeercert(binary_form=True))
    return browser.command(profile, tunnel.host, "127.0.0.1", trust, *more)


def shown(edge: EdgeProcess, tunnel: quictunnel.Tunnel, profile: Path, path: str) -> str:
    """What a browser makes of a page, as HTML, when all that belongs to it is there."""
    command = browsing(edge, tunnel, profile, "--dump-dom", tunnel.url + path)
    environ = browser.environment(profile)
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=True, timeout=60).stdout


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other end ends."""
    received = bytearray()
    while chunk := sock.recv(65536):
        received += chunk
    return bytes(received)


def was_reset(sock: socket.socket, timeout: float = 30) -> bool:
    """Wait until the other end has ended the connection; whether it did so by RST. Asked of the kernel, because
    the ssl module reports a reset as the same error as a FIN."""
    ended = select.poll()
    ended.register(sock, select.POLLRDHUP)
    assert ended.poll(timeout * 1000), "the connection did not end"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def random_file(path: Path, mebibytes: int) -> Path:
    """A file that does not compress."""
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(os.urandom(1024 * 1024))
    return path


@dataclass(frozen=True)
class Nginx:
    """A running nginx: serves ``root`` and takes PUT below ``/up/``."""

    port: int
    root: Path


_NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {base}/pid;
error_log {base}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {base}/body;
    proxy_temp_path {base}/proxy;
    fastcgi_temp_path {base}/fastcgi;
    uwsgi_temp_path {base}/uwsgi;
    scgi_temp_path {base}/scgi;
    client_max_body_size 0;
    keepalive_requests 10000;
    server {{
        listen 127.0.0.1:{port} {listen};
        {more}
        root {base}/root;
        location /up/ {{ dav_methods PUT; }}
    }}
}}
"""


def start_nginx(running, base: Path, listen: str = "backlog=512", more: str = "") -> Nginx:
    """nginx with these words behind ``listen``, and more for its server; ``running``: the fixture."""
    (base / "root" / "up").mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = base / "nginx.conf"
    # Its workers leave root otherwise, and then may not read a directory that is root's alone.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX.format(base=base, port=port, user=user, listen=listen, more=more))
    running([need("nginx"), "-c", config, "-e", base / "start.log"])
    wait_for_port(port)
    return Nginx(port, base / "root")


@pytest.fixture
def nginx(tmp_path, running):
    return start_nginx(running, tmp_path / "nginx")


@pytest.fixture
def manager():
    """Who keeps an edge's sockets open while edges come and go."""
    from tests.harness.service_manager import Manager

    manager = Manager()
    yield manager
    manager.close()


def tls_connect(edge: EdgeProcess, tunnel: quictunnel.Tunnel, alpn: list[str] | None = None) -> ssl.SSLSocket:
    """A verified TLS connection to the tunnel; ``*.localhost`` is not resolved by glibc, so by hand."""
    context = ssl.create_default_context(cafile=str(edge.ca))
    if alpn:
        context.set_alpn_protocols(alpn)
    raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=30)
    return context.wrap_socket(raw, server_hostname=tunnel.host)


def resident_memory(pid: int) -> int:
    """Bytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def children_environment(edge: EdgeProcess) -> dict[str, str]:
    """The environment for a program that uses quictunnel."""
    return os.environ | edge.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
