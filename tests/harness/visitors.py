"""Visitors of a tunnel: curl, a browser, TLS connections, and the kind of a connection's end."""

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
    """Run curl with the edge's CA."""
    command = [
        need("curl"),
        "--silent",
        "--show-error",
        "--cacert",
        str(edge.ca),
        "--noproxy",
        "*",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, check=False, timeout=100, **options)


def browsing(edge: EdgeProcess, tunnel: quictunnel.Tunnel, profile: Path, *more: str) -> list[str]:
    """Return the command line of a browser that trusts only the tunnel's certificate."""
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
    """Receive until the end."""
    received = bytearray()
    while chunk := sock.recv(65536):
        received += chunk
    return bytes(received)


def was_reset(sock: socket.socket, timeout: float = 30) -> bool:
    """Wait for the end of the connection. Return True if it is a reset.

    The kernel is asked, because the ssl module reports a reset as the same error as a FIN.
    """
    ended = select.poll()
    ended.register(sock, select.POLLRDHUP)
    assert ended.poll(timeout * 1000), "the connection did not end"
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET


def tls_connect(edge: EdgeProcess, tunnel: quictunnel.Tunnel, alpn: list[str] | None = None) -> ssl.SSLSocket:
    """Open a verified TLS connection to the tunnel. The address is fixed, because glibc does not resolve
    ``*.localhost``."""
    context = ssl.create_default_context(cafile=str(edge.ca))
    if alpn:
        context.set_alpn_protocols(alpn)
    raw = socket.create_connection(("127.0.0.1", tunnel.port), timeout=30)
    return context.wrap_socket(raw, server_hostname=tunnel.host)
