"""Four processes: an edge, a client, an origin and a crowd of visitors, so that each one's memory is its own."""

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
"""Rounds that a comparison takes."""


def more_rounds(ratios: list[float], bar: float) -> bool:
    """Return True if another round is to be measured. The median of at least three rounds decides, each of them
    a ratio within itself. Up to seven are measured while it is below the bar, because another program on the
    machine can spoil two in a row. Seven with a median below it have failed."""
    if len(ratios) < ROUNDS.start:
        return True
    return len(ratios) < ROUNDS.stop - 1 and statistics.median(ratios) < bar


class Arena:
    """While the ``with`` body runs; :meth:`do` tells the crowd what to do (``crowd.Crowd``)."""

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
        """Have the crowd do something and wait for it."""
        self.tell(name, **arguments)
        return self.answer()

    def tell(self, name: str, **arguments: Any) -> None:
        assert self._visitors.stdin is not None
        self._visitors.stdin.write(json.dumps({"do": name, **arguments}) + "\n")

    def answer(self) -> dict[str, Any]:
        return json.loads(first_line(self._visitors, ANSWER_TIMEOUT))

    def well(self, name: str, **arguments: Any) -> dict[str, Any]:
        """As :meth:`do`, and nothing may fail."""
        answer = self.do(name, **arguments)
        assert not answer["errors"], answer
        return answer

    def speed(self, size: int, tries: int = 2) -> float:
        """Bytes a second of one visitor beside the others: the best of some tries."""
        return max(size / self.do("busy", size=size)["seconds"] for _ in range(tries))

    def memory(self) -> dict[str, int]:
        """Resident bytes."""
        return {"edge": resident_memory(self.edge.pid), "client": resident_memory(self.client.pid)}
