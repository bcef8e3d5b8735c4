"""A system for scenarios step by step: faults that the model has found."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

from quictunnel.transport.engine import CloseCause
from tests.model.invariants import check_rest, check_step
from tests.model.runner import Episode
from tests.model.scripted_network import ScriptedNetwork
from tests.model.stepped_loop import SteppedLoop
from tests.model.system import ModelSystem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.model.program import Program, Ticket
    from tests.model.quic import QuicLink
    from tests.model.visitor import Visitor


class Scenario:
    """An edge, over scripted links on which everything arrives only when it is said so."""

    def __init__(self, system: ModelSystem, network: ScriptedNetwork) -> None:
        self.system = system
        self.network = network
        self.loop = system.loop
        self.call = system.loop.call

    def carry(self, seconds: float = 0.0) -> None:
        """Everything arrives, local services accept, and time passes."""
        self.network.carry(self.system, seconds)

    def check(self) -> None:
        """See that nothing is broken, and both sides of each session know the same streams."""
        self.carry(0.3)
        self.carry(0.3)
        check_step(self.system)
        check_rest(self.system)

    def program(
        self, ticket: Ticket | None = None, kind: str = "file", *, has_second_token: bool = False
    ) -> Program:
        """Start a program and let it have its name."""
        program = self.start(ticket, kind, has_second_token=has_second_token)
        self.carry()
        assert program.has_held
        return program

    def start(
        self, ticket: Ticket | None = None, kind: str = "file", *, has_second_token: bool = False
    ) -> Program:
        """Start a program; the other arguments are those of a new ticket."""
        self.call(self.system.start_program, ticket, kind, has_second_token)
        return self.system.programs[-1]

    def restart(self) -> None:
        """The edge is killed, and another one is started."""
        edge = self.system.edge
        assert edge is not None
        names = edge.noted_names(is_last=False)
        self.call(edge.kill)
        self.call(self.system.start_edge, names)

    def visitor(self, program: Program) -> Visitor:
        """A visitor comes for a program's name, and is in."""
        visitor = self.system.come(program.ticket)
        assert visitor is not None
        self.call(self.system.enter, visitor)
        return visitor

    def visitor_of_port(self, port: int, seconds: float = 0.0) -> Visitor:
        """A visitor comes to a TCP port, and time passes."""
        visitor = self.system.come_to_port(port, 0)
        assert visitor is not None
        self.call(self.system.enter, visitor)
        self.carry(seconds)
        return visitor

    @staticmethod
    def link(program: Program) -> QuicLink:
        """Return the link of a program's connection."""
        connection = program.manager._connection
        assert connection is not None
        end: Any = connection._link.connection
        link: QuicLink = end.link
        return link

    def lose(self, program: Program) -> None:
        """The program finds that its link is lost; the edge does not."""
        link = self.link(program)
        link.is_cut = True
        self.call(link.client.die, CloseCause.TIMEOUT)

    def redial(self, program: Program) -> QuicLink:
        """The program loses its link and says Hello on another; the edge's answer is under way."""
        self.lose(program)
        self.loop.advance(1.0)
        link = self.network.links[-1]
        for _ in range(4):
            for end in link.ends:
                for piece in end.pieces():
                    if end.is_client or piece[0] == "second":
                        self.call(end.deliver, piece)
        return link

    def served_now(self, program: Program) -> bool:
        """Return True if a visitor who comes now is served by this very program."""
        visitor = self.visitor(program)
        self.carry(0.1)
        return self.served(visitor) and visitor.client_session is program.session

    def served(self, visitor: Visitor) -> bool:
        """Return True if bytes go both ways."""
        if visitor.origin is None or visitor.peer.is_done or visitor.origin.is_done:
            return False
        before = visitor.peer.received, visitor.origin.received
        self.call(visitor.peer.send, 5)
        self.call(visitor.origin.send, 7)
        self.carry()
        return (visitor.peer.received, visitor.origin.received) == (before[0] + 7, before[1] + 5)


@contextlib.contextmanager
def new_scenario() -> Iterator[Scenario]:
    """Return a scenario with a new system and one edge."""
    loop = SteppedLoop()
    network = ScriptedNetwork(loop, random.Random(1))
    network.send_buffer, network.peer_streams = 512 * 1024, 100
    system = ModelSystem(loop, network, "scene")
    network.reach = system.reach
    try:
        with system.in_force():
            try:
                loop.call(system.start_edge, [])
                yield Scenario(system, network)
            finally:
                Episode._take_down(loop)
    finally:
        loop.close()
