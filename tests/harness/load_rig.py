"""An edge, a client, an origin and a load generator in four processes, so that their memory can be measured
separately."""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from typing import TYPE_CHECKING, Any, Self

from tests.harness.edge_process import children_environment, resident_memory, start_edge
from tests.harness.sockets import ClientProcess, end, first_line, program

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_TIMEOUT = 110.0

ROUNDS = range(3, 8)
"""Numbers of rounds of a comparison."""


def more_rounds(ratios: list[float], bar: float) -> bool:
    """Return True if another round is needed.

    The median of at least three ratios decides, each taken within its round. While it is below ``bar``, up to
    seven rounds are measured, because another program on the machine can disturb two in a row.
    """
    if len(ratios) < ROUNDS.start:
        return True
    return len(ratios) < ROUNDS.stop - 1 and statistics.median(ratios) < bar


class LoadRig:
    """The four processes, during a ``with`` block. :meth:`do` sends commands to the load generator."""

    def __init__(self, directory: Path, *options: str, prefix: tuple[str, ...] = ()) -> None:
        """``options``: more of the edge's."""
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            self.edge = start_edge(directory / "state", "--grace", "0", *options, prefix=prefix)
            opening.callback(self.edge.stop)
            self.origin = program([sys.executable, "-m", "tests.harness.load_generator", "origin"])
            opening.callback(end, self.origin)
            port = int(first_line(self.origin))
            self.client = opening.enter_context(ClientProcess.start(self.edge, port))
            tunnel = self.client.tunnel
            where = json.dumps([tunnel.host, tunnel.port, *tunnel.tcp_socket, str(self.edge.ca)])
            self._visitors = program(
                [sys.executable, "-m", "tests.harness.load_generator", "visitors", where],
                children_environment(self.edge),
            )
            opening.callback(end, self._visitors)
            self._stack = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        log = self.edge.state_dir.with_suffix(".log").read_text()
        assert "Traceback" not in log, log

    def do(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Send a command to the load generator and return its result."""
        self.tell(name, **arguments)
        return self.answer()

    def tell(self, name: str, **arguments: Any) -> None:
        """Send a command without waiting for its result."""
        assert self._visitors.stdin is not None
        self._visitors.stdin.write(json.dumps({"do": name, **arguments}) + "\n")

    def answer(self) -> dict[str, Any]:
        """Return the next result."""
        return json.loads(first_line(self._visitors, ANSWER_TIMEOUT))

    def do_checked(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and check that nothing failed."""
        answer = self.do(name, **arguments)
        assert not answer["errors"], answer
        return answer

    def speed(self, size: int, tries: int = 2) -> float:
        """Return the bytes per second of one download beside the other visitors: the best of ``tries``."""
        return max(size / self.do("busy", size=size)["seconds"] for _ in range(tries))

    def memory(self) -> dict[str, int]:
        """Return the resident memory of edge and client in bytes."""
        return {"edge": resident_memory(self.edge.pid), "client": resident_memory(self.client.pid)}
