"""Figures of an edge, and what is left on both sides when visitors have gone; of processes and of this one."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from edge_server.observability import state_dump
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.embedded import EmbeddedEdge

DUMP_TIMEOUT = 15.0
SETTLE_TIMEOUT = 20.0
"""Seconds for the last words about streams that are over to get through, twice lost and sent again."""


def dump_of(pid: int, state_dir: Path) -> dict[str, Any]:
    """Have an edge in a process of its own write what it holds, and read that."""
    file = state_dir / state_dump.FILE_NAME
    file.unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR1)
    eventually(file.exists, f"edge {pid} wrote no dump", timeout=DUMP_TIMEOUT)
    return json.loads(file.read_bytes())


def dump_of_embedded(edge: EmbeddedEdge) -> dict[str, Any]:
    """As above, of an edge in this process."""

    async def describe() -> dict[str, Any]:
        return state_dump.describe(edge.server.introspection)

    return edge._background.call(describe())


def arrivals(state: dict[str, Any]) -> int:
    """Visitors that have come to this edge so far: over TCP, and over TLS with or without a whole handshake."""
    begun = {each["kind"]: each["value"] for each in state["figures"]["visitors_begun_total"]}
    greeted = sum(each["value"] for each in state["figures"]["newcomers_total"])
    return int(begun["tcp"] + greeted)


def left_at(state: dict[str, Any]) -> dict[str, int]:
    """Count what an edge holds of visitors; those that wait for a client and those in a TLS handshake are
    counted apart."""
    visitors = state["visitors"]["entries"]
    return {
        "visitors": state["visitors"]["total"],
        "waiting": sum(not visitor["has_client"] for visitor in visitors),
        "handshakes": int(state["figures"]["newcomers_waiting"][0]["value"]),
        "streams": sum(session["streams"] for session in state["sessions"]["entries"]),
        "retained bytes": sum(session["kept_bytes"] for session in state["sessions"]["entries"]),
    }


def ask_client(path: Path) -> list[dict[str, int]]:
    """Return the counts of each client in a process that runs ``tests.load.observed_cli``."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(DUMP_TIMEOUT)
        sock.connect(str(path))
        with sock.makefile() as file:
            return json.loads(file.read())


def settled(left: Callable[[], dict[str, int]]) -> None:
    """Wait until nothing is left of any visitor. Asserts that it comes to that."""
    deadline = time.monotonic() + SETTLE_TIMEOUT
    while any((counts := left()).values()):
        assert time.monotonic() < deadline, f"something of visitors is left: {counts}"
        time.sleep(0.1)
