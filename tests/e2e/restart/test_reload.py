"""SIGHUP on a real edge: what may change does, nobody's connection ends, and what is wrong changes nothing."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from cryptography import x509

import quictunnel
from tests.harness.echo_origin import EchoOrigin
from tests.harness.edge_process import EdgeProcess, start_edge
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
VISITORS = 50
TIMEOUT = 20


class Operator:
    """Edits the files of an edge and listens to what it tells the service manager."""

    def __init__(self, directory: Path, manager: socket.socket) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(directory / "public.pem")
        self.config = directory / "edge.toml"
        self.log = directory / "edge.log"
        self._manager = manager
        self.serials = {name: self.issue(name) for name in ("one", "two")}

    def issue(self, name: str, domain: str = "*.tunnel.localhost") -> int:
        """A certificate and key in files of that name; its serial number."""
        leaf = self.authority.issue_cert(domain)
        leaf.private_key_pem.write_to_path(self.directory / f"{name}.key")
        leaf.cert_chain_pems[0].write_to_path(self.directory / f"{name}.pem")
        der = ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())
        return serial_of(der)

    def write(self, certificate: str = "one", more: str = "") -> None:
        """The configuration."""
        self.config.write_text(f'cert = "{certificate}.pem"\nkey = "{certificate}.key"\n{more}\n')

    def next_notification(self) -> list[str]:
        """The next message to the service manager."""
        return self._manager.recv(4096).decode().splitlines()

    def reload(self, edge: EdgeProcess) -> str:
        """Send SIGHUP and wait until it is done; what the log said meanwhile."""
        before = self.log.stat().st_size
        edge.process.send_signal(signal.SIGHUP)
        begin = self.next_notification()
        assert begin[0] == "RELOADING=1"
        name, _, moment = begin[1].partition("=")
        assert name == "MONOTONIC_USEC"
        assert int(moment) > 0
        assert self.next_notification()[0] == "READY=1"
        return self.log.read_bytes()[before:].decode()


def serial_of(der: bytes) -> int:
    return x509.load_der_x509_certificate(der).serial_number


@pytest.fixture
def operator(tmp_path, monkeypatch) -> Iterator[Operator]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(TIMEOUT)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield Operator(tmp_path, manager)


@pytest.fixture
def edge(tmp_path, operator, engines) -> Iterator[EdgeProcess]:
    operator.write()
    edge = start_edge(tmp_path / "state", "--config", str(operator.config), log=operator.log)
    assert operator.next_notification()[0] == "READY=1"
    yield edge
    assert edge.stop() == 0


def visit(operator: Operator, tunnel: quictunnel.Tunnel) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(operator.directory / "public.pem"))
    raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=TIMEOUT)
    return context.wrap_socket(raw, server_hostname=tunnel.host)


def shown_serial(operator: Operator, tunnel: quictunnel.Tunnel) -> int:
    """Of the certificate that a new visitor is met with."""
    with visit(operator, tunnel) as visitor:
        der = visitor.getpeercert(binary_form=True)
        assert der is not None
        return serial_of(der)


def is_alive(visitor: ssl.SSLSocket, word: bytes) -> bool:
    visitor.sendall(word)
    received = b""
    while len(received) < len(word) and (chunk := visitor.recv(100)):
        received += chunk
    return received == word


def test_another_certificate_while_visitors_are_in(operator, edge):
    with EchoOrigin() as origin, edge.client() as client, quictunnel.forward(origin.port, client=client) as tunnel:
        visitors = [visit(operator, tunnel) for _ in range(VISITORS)]
        assert all(is_alive(visitor, b"before") for visitor in visitors)
        assert shown_serial(operator, tunnel) == operator.serials["one"]
        operator.write("two")
        log = operator.reload(edge)
        assert "the configuration was read again; changed: cert, key\n" in log
        assert shown_serial(operator, tunnel) == operator.serials["two"]
        assert all(is_alive(visitor, b"after") for visitor in visitors)
        # The new files are the ones that are looked at from now on.
        renewed = operator.issue("two")
        eventually(lambda: shown_serial(operator, tunnel) == renewed, timeout=TIMEOUT)
        for visitor in visitors:
            visitor.close()


def test_reload_applies_live_options_and_names_the_others(operator, edge):
    operator.write(more='grace = 7\nhold = 3\nallow-wildcard-h2 = true\nlog-level = "debug"\nlog-format = "json"')
    assert "changed: allow-wildcard-h2, grace, hold, log-format, log-level" in operator.reload(edge)
    operator.write(more='tcp-ports = "7000-7001"\nquic = "127.0.0.1:1"\npublic-host = "a.example"')
    log = operator.reload(edge)
    assert "changed: allow-wildcard-h2, grace, hold, log-format, log-level" in log  # back to the defaults
    assert "--tcp-ports changed: needs SIGUSR2 or a restart" in log
    assert "--public-host changed: needs SIGUSR2 or a restart" in log
    assert "--quic changed" not in log  # the command line says it, and wins


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("htps = 1", "edge.toml:1: unknown name 'htps'; did you mean"),
        ("= 1", "edge.toml:1: not valid TOML"),
        (None, "cannot be read: No such file or directory"),
        ('log-level = "debug"\ncert = "absent.pem"\nkey = "two.key"', "Cannot read the certificate "),
        ('log-level = "debug"\ncert = "two.pem"\nkey = "one.key"', "does not belong to the certificate"),
        ('log-level = "debug"\ncert = "other.pem"\nkey = "other.key"', "does not cover *.tunnel.localhost"),
    ],
)
def test_invalid_reload_changes_nothing(operator, edge, content, said):
    operator.issue("other", "*.other.example")
    if content is None:
        operator.config.unlink()
    else:
        operator.config.write_text(content)
    log = operator.reload(edge)
    assert said in log
    assert "the configuration is unchanged" in log
    operator.write()
    assert "the configuration was read again; changed: nothing" in operator.reload(edge)


def test_many_signals_at_once_are_one_reload_or_two(operator, edge):
    for _ in range(20):
        os.kill(edge.pid, signal.SIGHUP)
    assert operator.next_notification()[0] == "RELOADING=1"
    assert operator.next_notification()[0] == "READY=1"
    operator.write(more="grace = 9")
    log = ""
    while "changed: grace" not in log:  # those signals may have left one more to do
        log += operator.reload(edge)
    assert edge.process.poll() is None


# Makes the terminal of its descriptor 0 its own, as a shell's child has one, and becomes the edge.
IN_TERMINAL = """
import os, sys
os.login_tty(int(sys.argv[1]))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def test_in_a_terminal_it_ends_with_the_terminal(tmp_path, engines):
    master, slave = os.openpty()
    options = ["--state-dir", tmp_path / "state", "--https", "127.0.0.1:0", "--quic", "127.0.0.1:0"]
    command = [sys.executable, "-c", IN_TERMINAL, str(slave), "-m", "edge_server", *options]
    with subprocess.Popen(command, pass_fds=[slave], start_new_session=True, cwd=ROOT) as edge:
        os.close(slave)
        try:
            seen = b""
            while b"Try:" not in seen:
                seen += os.read(master, 4096)
            os.kill(edge.pid, signal.SIGHUP)  # the terminal is there: somebody wants a reload
            while b"the configuration was read again" not in seen:
                seen += os.read(master, 4096)
            os.close(master)
            assert edge.wait(TIMEOUT) == 0
        finally:
            if edge.poll() is None:
                edge.kill()
    assert not (tmp_path / "state" / "client.env").exists()
