"""The two ends of a tunnel in a test's own hands: visitors and origins, byte by byte, TLS and TCP step by step.

Blocking sockets with a deadline each, so that a test reads as a conversation.
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

PATIENCE = 15.0
READ = 256 * 1024


class TruncatedError(Exception):
    """TCP ended without TLS having ended: no reset, and no clean end either."""


class End(Protocol):
    """End of a connection, TCP or TLS."""

    sock: socket.socket

    def send(self, data: bytes) -> None: ...
    def finish(self) -> None:
        """End this direction; the other goes on."""

    def receive(self) -> bytes:
        """Some bytes; empty at the end. Raises ConnectionResetError for a reset."""


class TcpEnd:
    """Plain TCP."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def finish(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        return self.sock.recv(READ)


class TlsEnd:
    """TLS over memory buffers, because a half-close is more than SSLSocket can do."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str) -> None:
        sock.settimeout(PATIENCE)
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
    """Everything up to the end of the direction."""
    parts = []
    while part := end.receive():
        parts.append(part)
    return b"".join(parts)


def receive_exactly(end: End, size: int) -> bytes:
    """Read exactly ``size`` bytes and, on a clean connection, not one more."""
    data = b""
    while len(data) < size:
        part = end.receive()
        assert part, "ended too early"
        data += part
    assert len(data) == size
    return data


def is_reset(end: End) -> bool:
    """Read to the end, whatever it is: whether it is a reset (and not a clean end)."""
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
    """Send until it fails: whether a reset is why."""
    try:
        while True:
            end.sock.send(bytes(64 * 1024))
    except (ConnectionResetError, BrokenPipeError):
        # EPIPE is what a second write after the reset gets.
        return True
    except TimeoutError:
        return False


def sockets_of(pid: int) -> int:
    """Sockets that a process has. Not all descriptors: an event loop opens some of its own when first needed."""
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
    """A program around ``forward()``, in a process of its own; ends with its standard input."""

    process: subprocess.Popen[str]
    tunnel: quictunnel.Tunnel

    @classmethod
    def start(cls, edge: EdgeProcess, port: int) -> Self:
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
    """Start a program that speaks lines and ends with its standard input."""
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


def first_line(process: subprocess.Popen[str], timeout: float = PATIENCE) -> str:
    """The next line that a program says."""
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], timeout)[0], f"{process.args} said nothing"
    line = process.stdout.readline()
    assert line, f"{process.args} ended with status {process.wait(PATIENCE)}"
    return line


def end(process: subprocess.Popen[str]) -> int:
    """Close its standard input and wait; by force if it takes too long."""
    with process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def verifying(ca: Path | str) -> ssl.SSLContext:
    """A context that verifies visitors' certificates."""
    return ssl.create_default_context(cafile=str(ca))
