"""A service manager that holds an edge's sockets, like systemd with a socket unit."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

from tests.harness.edge_process import EdgeProcess, start_edge

BACKLOG = 4096
"""The backlog of a socket unit."""
# Renumbers descriptors as sd_listen_fds(3) requires, and executes the edge.
PASS_ON = """
import os, sys
names = sys.argv[1]
count = len(names.split(":"))
given = [os.dup(int(number)) for number in sys.argv[2:2 + count]]
for number, descriptor in enumerate(given, 3):
    os.dup2(descriptor, number)
    os.set_inheritable(number, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES=names)
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"""


class SocketUnit:
    """Opens the sockets, as a socket unit with ``[::]`` does, and keeps them while edges start and stop."""

    def __init__(self) -> None:
        self.https = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        self.quic = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.quic.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self.quic.bind(("::", 0))
        self.http = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
        self.ports = self.https.getsockname()[1], self.quic.getsockname()[1]
        self.http_port = self.http.getsockname()[1]
        self._started: list[EdgeProcess] = []

    def start(self, state_dir: Path, *more: str, names: str = "https:quic") -> EdgeProcess:
        """Start an edge with these sockets: those of ``https``, ``quic`` and ``acme-http`` in ``names``."""
        known = {"https": self.https, "quic": self.quic, "acme-http": self.http}
        sockets = [known[name] for name in names.split(":")]
        options = ("--https", f"[::]:{self.ports[0]}", "--quic", f"[::]:{self.ports[1]}", "--grace", "5", *more)
        prefix = (sys.executable, "-c", PASS_ON, names, *(str(sock.fileno()) for sock in sockets))
        for sock in sockets:
            sock.set_inheritable(True)
        edge = start_edge(state_dir, *options, prefix=prefix, close_fds=False)
        self._started.append(edge)
        return edge

    def close(self) -> None:
        """Kill edges that a failed test has left, and close the sockets."""
        for edge in self._started:  # left by a failed test
            if edge.process.poll() is None:
                edge.process.kill()
                edge.process.wait()
            for process in successors(edge):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    # Another process may have this ID by now.
                    if str(edge.state_dir).encode() in Path(f"/proc/{process}/cmdline").read_bytes():
                        os.kill(process, signal.SIGKILL)
        for sock in (self.https, self.quic, self.http):
            sock.close()


def successors(edge: EdgeProcess) -> list[int]:
    """Return the processes that an edge started as its successors, according to its log."""
    log = edge.state_dir.with_suffix(".log").read_text()
    return [int(line.split()[-5]) for line in log.splitlines() if "is to take over" in line]
