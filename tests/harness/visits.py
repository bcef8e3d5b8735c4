"""Visitors of a tunnel: curl, a browser, TLS connections, and how a connection ended."""

import errno
import select
import socket
import ssl
import subprocess
from pathlib import Path

import quictunnel
from tests.harness import browser
from tests.harness.edge_process import EdgeProcess
from tests.harness.programs import need


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
    """Return the HTML of a page as a browser shows it, with everything loaded."""
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


def tls_connect(edge: EdgeProcess, tunnel: quictunnel.Tunnel, alpn: list[str] | None = None) -> ssl.SSLSocket:
    """A verified TLS connection to the tunnel; ``*.localhost`` is not resolved by glibc, so by hand."""
    context = ssl.create_default_context(cafile=str(edge.ca))
    if alpn:
        context.set_alpn_protocols(alpn)
    raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=30)
    return context.wrap_socket(raw, server_hostname=tunnel.host)
