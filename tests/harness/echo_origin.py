"""An echo server, and checks whether a tunnel to it works."""

import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tests.harness.visitors import tls_connect

CLOSED_TIMEOUT = 2
"""Seconds for the edge to answer in place of a tunnel that is closed."""


class EchoOrigin:
    """A TCP echo server on threads."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._server.getsockname()[1]
        self._threads: list[threading.Thread] = []

    def __enter__(self):
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._server.close()
        for thread in self._threads:
            thread.join()

    def _accept(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._echo, args=(connection,)))
            self._threads[-1].start()

    @staticmethod
    def _echo(connection):
        with connection:
            try:
                while chunk := connection.recv(65536):
                    connection.sendall(chunk)
            except ConnectionError:
                return


def echoes(visitor: socket.socket, words: bytes = b"hello") -> bool:
    """Send bytes and return True if the same bytes come back."""
    visitor.sendall(words)
    received = b""
    while len(received) < len(words):
        chunk = visitor.recv(len(words) - len(received))
        if not chunk:
            return False
        received += chunk
    return received == words


def serves(edge, tunnel) -> bool:
    """Return True if a new visitor is served over TLS, and over TCP if the tunnel has a port. Raises OSError."""
    with tls_connect(edge, tunnel) as visitor:
        if not echoes(visitor):
            return False
    if tunnel.unencrypted_host:
        with socket.create_connection(tunnel.tcp_socket, timeout=30) as visitor:
            return echoes(visitor)
    return True


def assert_closed(edge, tunnel) -> None:
    """Check that the name is unknown to the edge and that the TCP port is closed."""
    assert is_closed(edge, tunnel)
    if tunnel.unencrypted_host:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(tunnel.tcp_socket, timeout=30)


def run_python(code: str, environment: dict[str, str], *, timeout: float = 60) -> subprocess.CompletedProcess:
    """Run a Python program in a process of its own."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def is_served(edge, tunnel) -> bool:
    """Return True if a new visitor is served."""
    try:
        return serves(edge, tunnel)
    except OSError:  # refused, reset, no such name: not yet
        return False


def is_closed(edge, tunnel) -> bool:
    """Return True if the name is unknown to the edge, which says so by a page or an alert."""
    try:
        with tls_connect(edge, tunnel) as visitor:
            visitor.settimeout(CLOSED_TIMEOUT)
            visitor.sendall(b"GET / HTTP/1.1\r\n\r\n")
            return visitor.recv(65536).startswith(b"HTTP/1.1 404 Not Found\r\n")
    except ssl.SSLError as error:
        return "unrecognized" in str(error).lower()
    except OSError:  # reset, or no answer: a tunnel that is not closed yet
        return False


def udp_sockets() -> int:
    """Return the number of UDP sockets of this process."""
    count = 0
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue  # the one that listed them
        if target.startswith("socket:"):
            with socket.socket(fileno=os.dup(int(descriptor.name))) as copy:
                count += copy.type == socket.SOCK_DGRAM and copy.family in (socket.AF_INET, socket.AF_INET6)
    return count
