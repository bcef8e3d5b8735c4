"""A service that echoes, and whether a tunnel to it serves."""

import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tests.harness.visits import tls_connect

"""Seconds for what comes by itself: above the idle time-out of the QUIC connection and a few dials."""


class EchoOrigin:
    """A TCP server on threads that says back what it hears."""

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


def says_back(visitor: socket.socket, words: bytes = b"hello") -> bool:
    visitor.sendall(words)
    received = b""
    while len(received) < len(words):
        chunk = visitor.recv(len(words) - len(received))
        if not chunk:
            return False
        received += chunk
    return received == words


def serves(edge, tunnel) -> bool:
    """Return True if a new visitor is served over TLS, and over TCP where the tunnel has it."""
    with tls_connect(edge, tunnel) as visitor:
        if not says_back(visitor):
            return False
    if tunnel.unencrypted_host:
        with socket.create_connection(tunnel.tcp_socket, timeout=30) as visitor:
            return says_back(visitor)
    return True


def assert_closed(edge, tunnel) -> None:
    """A new visitor is told that there is no such name, and nobody listens on the TCP port."""
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        tls_connect(edge, tunnel)
    if tunnel.unencrypted_host:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(tunnel.tcp_socket, timeout=30)


def run_python(code: str, environment: dict[str, str], *, timeout: float = 60) -> subprocess.CompletedProcess:
    """A program of its own."""
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def is_served(edge, tunnel) -> bool:
    try:
        return serves(edge, tunnel)
    except OSError:  # refused, reset, no such name: not yet
        return False


def is_closed(edge, tunnel) -> bool:
    try:
        tls_connect(edge, tunnel).close()
    except ssl.SSLError:
        return True
    return False


def udp_sockets() -> int:
    """Of this process."""
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
