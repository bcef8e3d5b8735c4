"""A whole tunnel in a lab: an edge in one host, an origin and a client in the other, visitors beside the edge.

Edge and client are the programs that users start. The origin is threads of this process whose listening socket
belongs to the client's host; the visitors' sockets belong to the edge's, so only the tunnel crosses the WAN.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.harness import engine_pairing
from tests.load.churn import Churn
from tests.load.leftovers import arrivals, ask_client, dump_of, left_at, settled
from tests.load.plan import RATE, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from tests.netlab.lab import Lab

REPOSITORY = Path(__file__).parents[2]
QUIC_PORT, HTTPS_PORT = 4433, 8443
START_SECONDS = 20.0
READY_SECONDS = 25.0
"""For the client's first line: its own limit for connecting and binding is 10 s each."""
PATIENCE = 40.0
"""Seconds without a byte after which a visitor or the origin gives up, so that a hang fails its test."""
CHUNK = 256 * 1024

ECHO, SEND, DIGEST = b"E", b"S", b"D"
"""Commands to the origin, a visitor's first byte: echo everything; send as many bytes as the next eight bytes
say; take everything and answer with its SHA-256."""
_COUNT = struct.Struct("!Q")
# One block, sent from an offset that moves by a prime: cheap, and no two blocks on the wire are alike.
_BLOCK = random.Random(1).randbytes(CHUNK + 65_537)


def pattern(total: int) -> Iterator[memoryview]:
    """The bytes that ``SEND`` sends."""
    at = 0
    view = memoryview(_BLOCK)
    while at < total:
        start = (at // CHUNK * 8191) % 65_537
        size = min(CHUNK, total - at)
        yield view[start : start + size]
        at += size


def digest_of(total: int) -> bytes:
    """SHA-256 of what ``SEND`` sends."""
    whole = hashlib.sha256()
    for chunk in pattern(total):
        whole.update(chunk)
    return whole.digest()


class Origin:
    """A service in the client's host; ends with its ``with`` block, and every connection with it."""

    def __init__(
        self, lab: Lab, *, address: str = "127.0.0.1", congestion: str = "", patience: float = PATIENCE
    ) -> None:
        """On loopback, or where visitors reach it directly, with a congestion control of the kernel's."""
        self._listener = lab.client.socket(kind=socket.SOCK_STREAM, bind=(address, 0))
        if congestion:
            self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        self._listener.listen(1024)  # hundreds may be dialled in the same moment
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._patience = patience
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # shutdown() wakes a thread that waits in accept() or recv(); close() does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for sock in tuple(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener's end
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(self._patience)
                thread = threading.Thread(target=self._serve, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        self._open.add(sock)
        # A visitor that left, or the end of the test; the visitor's side is where it is judged.
        with sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            match sock.recv(1):
                case b"E":
                    while data := sock.recv(CHUNK):
                        sock.sendall(data)
                case b"S":
                    for chunk in pattern(_COUNT.unpack(sock.recv(_COUNT.size, socket.MSG_WAITALL))[0]):
                        sock.sendall(chunk)
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(1)
                case b"D":
                    whole = hashlib.sha256()
                    while data := sock.recv(CHUNK):
                        whole.update(data)
                    sock.sendall(whole.digest())
        self._open.discard(sock)


class Tunnelled:
    """A running tunnel in a lab: ``with Tunnelled(lab, tmp_path) as tunnel``."""

    def __init__(
        self, lab: Lab, directory: Path, *, kind: str = "tcp", port: int = 0, patience: float = PATIENCE
    ) -> None:
        """``port``: of a service in the client's host, instead of an origin of the test's own; ``patience``:
        seconds without a byte after which the origin and visitors give up."""
        self.lab = lab
        self._directory = directory / "edge"
        self._kind = kind
        self._port = port
        self._patience = patience
        self._stack = contextlib.ExitStack()
        self.ready: dict[str, Any] = {}
        self.connect_seconds = 0.0
        """From the client's start to its ``ready``, its imports included."""
        self.events: list[dict[str, Any]] = []
        """Events that clients printed after ``ready``; complete when they have ended."""
        self._client: subprocess.Popen[str] | None = None
        self._inspector = directory / "client.sock"
        """Socket on which the client reports what it holds."""
        self._tasks = 0
        """Of the client, without visitors."""
        self._visits = 0

    @property
    def environment(self) -> dict[str, str]:
        """For a client in the client's host."""
        lines = (self._directory / "client.env").read_text().splitlines()
        found = dict(line.split("=", 1) for line in lines)
        found["QUICTUNNEL_EDGE"] = f"{self.lab.edge.address}:{QUIC_PORT}"
        return os.environ | found | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._start_edge()
            if not self._port:
                self.origin = stack.enter_context(Origin(self.lab, patience=self._patience))
            self.start_client()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                return  # the lab ends them; whether they can end well on a broken link is not the question now
            self._check_nothing_left()
            if self._client is not None:
                self.stop_client()
            self.edge.terminate()
            self.edge.communicate(timeout=PATIENCE)
            assert self.edge.returncode == 0

    def _check_nothing_left(self) -> None:
        """Wait until nothing of any visitor is left on either side; all have gone."""

        def left() -> dict[str, int]:
            at_edge = {f"edge: {name}": count for name, count in left_at(self.state()).items()}
            if self._client is None:
                return at_edge
            (held,) = ask_client(self._inspector)
            tasks = held.pop("tasks")
            held["tasks of visitors"] = max(0, tasks - self._tasks)
            return at_edge | {f"client: {name}": count for name, count in held.items()}

        settled(left)

    def state(self) -> dict[str, Any]:
        """Return the edge's state dump, with its metrics."""
        return dump_of(self.edge.pid, self._directory)

    def churn(
        self,
        *,
        patience: float = PATIENCE,
        rate: float = RATE,
        conversation: str = "echo",
        prefix: str = ECHO.decode(),
    ) -> Churn:
        """Newcomers and leavers, as many as the shared load has, beside the edge."""
        host, tls_port = self.ready["tls_socket"]
        target = (host, tls_port, *self.ready["tcp_socket"])
        plan = Plan([target], str(self._directory / "ca.pem"), conversation, prefix, rate, patience=patience)
        return Churn(plan, self.lab.edge.popen, watched=self._arrivals)

    def _arrivals(self) -> int:
        """Visitors that have come to the edge, without those of the test's own."""
        return arrivals(self.state()) - self._visits

    def _start_edge(self) -> None:
        address = self.lab.edge.address
        log = self._directory.with_suffix(".log")
        with log.open("ab") as output:
            edge = self.lab.edge.python(
                *("-m", "edge_server", "--state-dir", self._directory, "--domain", "tunnel.localhost"),
                *("--quic", f"0.0.0.0:{QUIC_PORT}", "--https", f"0.0.0.0:{HTTPS_PORT}"),
                *("--tcp-host", "0.0.0.0", "--public-host", address),
                env=os.environ | {engine_pairing.VARIABLE: engine_pairing.edge_engine()},
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                cwd=REPOSITORY,
            )
        self.edge = edge
        for line in edge.stdout:
            if line.startswith("Try:"):
                return
        edge.wait(START_SECONDS)
        raise AssertionError(f"the edge did not start: {log.read_text()}")

    def start_client(self) -> None:
        """Start ``quictunnel`` in the client's host and wait until it is ready."""
        began = time.monotonic()
        self._inspector.unlink(missing_ok=True)
        with self._directory.with_name("client.log").open("ab") as output:
            client = self.lab.client.python(
                *("-m", "tests.load.observed_cli", self._inspector),
                *(self._kind, str(self._port or self.origin.port), "--json"),
                env=self.environment,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        timer = threading.Timer(READY_SECONDS, client.kill)  # a client that hangs ends its output at least
        timer.start()
        line = client.stdout.readline()
        timer.cancel()
        assert line, self._directory.with_name("client.log").read_text()
        self.connect_seconds = time.monotonic() - began
        self.ready = json.loads(line)
        assert self.ready["event"] == "ready", line
        self._client = client
        (held,) = ask_client(self._inspector)
        self._tasks = held["tasks"]

    def stop_client(self) -> None:
        """End the client as its user does."""
        assert self._client is not None
        client, self._client = self._client, None
        client.terminate()
        out, _ = client.communicate(timeout=PATIENCE)
        assert client.returncode == 0
        self.events += [json.loads(line) for line in out.splitlines()]

    def signal_client(self, number: int) -> None:
        """Have the system do to the client what a signal does."""
        assert self._client is not None
        self._client.send_signal(number)

    @property
    def resumed(self) -> bool:
        """Return True if the session ever went on with another QUIC connection, according to clients that have
        ended."""
        return any(event["event"] == "resumed" for event in self.events)

    @property
    def reconnected(self) -> bool:
        """Return True if a client that has ended used more than one QUIC connection."""
        assert any(event["event"] == "closed" for event in self.events)
        return any(event.get("state") in ("away", "reconnecting") for event in self.events)

    # Visitors.

    def visit(self) -> socket.socket:
        """A visitor at the TCP address."""
        return self._connect(*self.ready["tcp_socket"])

    def visit_tls(self) -> ssl.SSLSocket:
        """A visitor at the TLS address, verifying the certificate."""
        host, port = self.ready["tls_socket"]
        context = ssl.create_default_context(cafile=str(self._directory / "ca.pem"))
        return context.wrap_socket(self._connect("127.0.0.1", port), server_hostname=host)

    def _connect(self, host: str, port: int) -> socket.socket:
        sock = self.lab.edge.socket(kind=socket.SOCK_STREAM)
        sock.settimeout(self._patience)
        sock.connect((host, port))
        self._visits += 1
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


def ask_for(sock: socket.socket, total: int) -> None:
    """Have the origin send ``total`` bytes."""
    sock.sendall(SEND + _COUNT.pack(total))


def download(sock: socket.socket, total: int) -> bytes:
    """Ask for ``total`` bytes; the SHA-256 of what came until the end."""
    ask_for(sock, total)
    whole = hashlib.sha256()
    while data := sock.recv(CHUNK):
        whole.update(data)
    return whole.digest()


def upload(sock: socket.socket, total: int) -> bytes:
    """Send ``total`` bytes; the SHA-256 of what the origin got, by its own account. Not over TLS, whose
    Python face cannot end one direction alone."""
    sock.sendall(DIGEST)
    for chunk in pattern(total):
        sock.sendall(chunk)
    sock.shutdown(socket.SHUT_WR)
    return sock.recv(32, socket.MSG_WAITALL)


class Bulk:
    """A transfer that goes on until its ``with`` block ends, with a count of what has arrived by when."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._thread = threading.Thread(target=self._read)
        self._changed = threading.Condition()
        self.received = 0
        self.broke: OSError | None = None
        self._arrivals: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        ask_for(self._sock, 1 << 40)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # it may have been reset already, which ``broke`` says
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._sock.close()

    def _read(self) -> None:
        try:
            while data := self._sock.recv(CHUNK):
                with self._changed:
                    self.received += len(data)
                    self._arrivals.append((time.monotonic(), len(data)))
                    self._changed.notify_all()
        except OSError as error:
            self.broke = error

    def wait_for(self, size: int, timeout: float) -> float:
        """Wait until ``size`` more bytes have come; the seconds that it took."""
        began = time.monotonic()
        with self._changed:
            wanted = self.received + size
            assert self._changed.wait_for(lambda: self.received >= wanted, timeout), (
                f"{self.received - wanted + size} of {size} bytes within {timeout} s; broken: {self.broke}"
            )
        return time.monotonic() - began

    def first_after(self, moment: float, timeout: float) -> float:
        """Seconds from ``moment`` to the next arrival."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrivals and self._arrivals[-1][0] > moment, timeout), (
                f"nothing for {timeout} s; broken: {self.broke}"
            )
            return next(at for at, _ in self._arrivals if at > moment) - moment

    def longest_pause(self, start: float, end: float) -> float:
        """Seconds without an arrival, at most, between two moments."""
        with self._changed:
            moments = [start, *(at for at, _ in self._arrivals if start < at <= end), end]
        return max(after - before for before, after in itertools.pairwise(moments))

    def mbit_between(self, start: float, end: float) -> float:
        with self._changed:
            moved = sum(size for at, size in self._arrivals if start < at <= end)
        return moved * 8e-6 / (end - start)


class Keystrokes:
    """Visitor that sends one byte every ``interval`` seconds, which the origin echoes, and records how long each
    took.

    They are sent when they are due and not when the last one is back, as people type.
    """

    def __init__(self, sock: socket.socket, interval: float = 0.05) -> None:
        self._sock = sock
        self._interval = interval
        sock.sendall(ECHO)

    def run(self, count: int) -> list[float]:
        sent: list[float] = []

        def press() -> None:
            began = time.monotonic()
            for number in range(count):
                time.sleep(max(0.0, began + number * self._interval - time.monotonic()))
                sent.append(time.monotonic())
                self._sock.sendall(b"x")

        thread = threading.Thread(target=press)
        thread.start()
        delays: list[float] = []
        try:
            while len(delays) < count:
                data = self._sock.recv(1024)
                assert data, "the stream ended"
                now = time.monotonic()
                delays += [now - sent[len(delays) + offset] for offset in range(len(data))]
        finally:
            thread.join(PATIENCE)
        return delays


def percentile(values: list[float], share: float) -> float:
    """The smallest value that is not exceeded by ``share`` of all (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]
