"""Fixtures of the end-to-end tests: an edge in a process of its own, its clients and its origins."""

import contextlib
import socket
import subprocess
import threading

import pytest

from tests.harness import engine_pairing
from tests.harness.edge_process import start_edge
from tests.harness.nginx import start_nginx
from tests.harness.service_manager import SocketUnit


@pytest.fixture(scope="session", autouse=True)
def engines(pairing_in_force) -> engine_pairing.Pairing:
    """The engines of edge and client, which may differ. A fixture that starts one of them and outlives a test asks
    for this fixture, so that both end together."""
    return pairing_in_force


@pytest.fixture(scope="session")
def shared_edge(tmp_path_factory, engines):
    """Edge shared by all tests that do not disturb it."""
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


@pytest.fixture
def nginx(tmp_path, running):
    return start_nginx(running, tmp_path / "nginx")


@pytest.fixture
def manager():
    """A service manager that keeps an edge's sockets open while edges come and go."""
    manager = SocketUnit()
    yield manager
    manager.close()
