"""Blocking sockets for both ends of a tunnel, over TCP and TLS, with a time limit for each operation.

A test can thus be read as a sequence of sends and receives.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import quictunnel
from tests.harness.edge_process import children_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.harness.edge_process import EdgeProcess

SOCKET_TIMEOUT = 15.0
READ = 256 * 1024


class TruncatedError(Exception):
    """TCP ended cleanly without close_notify."""


class End(Protocol):
    """End of a connection, TCP or TLS."""

    sock: socket.socket

    def send(self, data: bytes) -> None: ...
    def finish(self) -> None:
        """End this direction; the other continues."""

    def receive(self) -> bytes:
        """Return some bytes, or none at the end. Raises ConnectionResetError for a reset."""


class TcpEnd:
    """Plain TCP."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(SOCKET_TIMEOUT)
        self.sock = sock

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        return self.sock.recv(READ)


class TlsEnd:
    """TLS over memory buffers, because SSLSocket cannot half-close."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        sock.settimeout(SOCKET_TIMEOUT)
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
            else:
                break
        self._flush()

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def finish(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):  # it would wait for the other side's close_notify
            self._tls.unwrap()
        self._flush()
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(READ)
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLWantReadError:
                self._feed()

    def _feed(self) -> None:
        data = self.sock.recv(READ)
        if not data:
            raise TruncatedError
        self._incoming.write(data)

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self.sock.sendall(data)


def receive_all(end: End) -> bytes:
    """Receive until the end of the direction."""
    parts = []
    while part := end.receive():
        parts.append(part)
    return b"".join(parts)


def receive_exactly(end: End, size: int) -> bytes:
    """Receive ``size`` bytes and check that no more have arrived."""
    data = b""
    while len(data) < size:
        part = end.receive()
        assert part, "ended too early"
        data += part
    assert len(data) == size
    return data


def is_reset(end: End) -> bool:
    """Read to the end. Return True if it is a reset and not a clean end."""
    try:
        while end.receive():
            pass
    except ConnectionResetError:
        return True
    return False


def reset(end: End) -> None:
    """Close with a RST (socket(7), SO_LINGER)."""
    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.sock.close()


def refuses_more(end: End) -> bool:
    """Send until it fails. Return True if a reset is the reason."""
    try:
        while True:
            end.sock.send(bytes(64 * 1024))
    except (ConnectionResetError, BrokenPipeError):
        # EPIPE is what a second write after the reset gets.
        return True
    except TimeoutError:
        return False


def sockets_of(pid: int) -> int:
    """Return the number of sockets of a process. Other descriptors do not count: an event loop opens some when
    they are first needed."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += str(descriptor.readlink()).startswith("socket:")
    return count


_FORWARD = """
import sys, json, quictunnel
with quictunnel.forward(int(sys.argv[1]), unencrypted=True) as tunnel:
    print(json.dumps([tunnel.host, tunnel.port, *tunnel.tcp_socket]), flush=True)
    sys.stdin.read()
"""


@dataclass
class ClientProcess:
    """A program that calls ``forward()``, in a process of its own. It ends with its standard input."""

    process: subprocess.Popen[str]
    tunnel: quictunnel.Tunnel

    @classmethod
    def start(cls, edge: EdgeProcess, port: int) -> Self:
        """Start the program and wait for its tunnel."""
        process = program([sys.executable, "-c", _FORWARD, str(port)], children_environment(edge))
        host, tls_port, tcp_host, tcp_port = json.loads(first_line(process))
        return cls(process, quictunnel.Tunnel(host, tls_port, tcp_host, tcp_port))

    @property
    def pid(self) -> int:
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self.process)


def program(
    command: list[str], environ: dict[str, str] | None = None, *, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[str]:
    """Start a program that prints lines and ends with its standard input."""
    return subprocess.Popen(
        command,
        env=environ,
        pass_fds=pass_fds,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )


def first_line(process: subprocess.Popen[str], timeout: float = SOCKET_TIMEOUT) -> str:
    """Return the next line of a program."""
    assert process.stdout is not None
    readable = select.poll()  # takes descriptors above 1,023, which an edge in this process may have brought
    readable.register(process.stdout, select.POLLIN)
    assert readable.poll(timeout * 1000), f"{process.args} said nothing"
    line = process.stdout.readline()
    assert line, f"{process.args} ended with status {process.wait(SOCKET_TIMEOUT)}"
    return line


def end(process: subprocess.Popen[str]) -> int:
    """Close the standard input of a program and wait for its end; kill it if that takes too long."""
    with process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            return process.wait(SOCKET_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def verifying(ca: Path | str) -> ssl.SSLContext:
    """Return an SSL context that verifies the edge's certificates."""
    return ssl.create_default_context(cafile=str(ca))
