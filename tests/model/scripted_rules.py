"""Rules for scripted links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quictunnel.transport.engine import CloseCause
from tests.model import rules as common
from tests.model.invariants import check_rest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.quic import End, Piece, QuicLink
    from tests.model.rules import Rule, Rules
    from tests.model.system import ModelSystem

SCRIPTED: Final[Rules] = {}


def rule(weight: int) -> Callable[[Rule], Rule]:
    """Add a function to the rules for scripted links."""
    return common.rule(weight, SCRIPTED)


def _open_links(system: ModelSystem) -> list[QuicLink]:
    return [link for link in system.network.live_links() if not link.is_cut and not link.is_paused]


def _ways(system: ModelSystem) -> list[tuple[End, list[Piece]]]:
    ways = [(end, end.pieces()) for link in _open_links(system) for end in link.ends]
    return [(end, pieces) for end, pieces in ways if pieces]


def deliver_one(system: ModelSystem, end: End, piece: Piece, b: int) -> None:
    """Let one piece arrive, of data perhaps a part."""
    kind, number = piece
    if not end.is_client and kind == "reset" and number not in end.link.seen:
        system.reach("reset before the preface")
    if kind == "data" and not end.is_client and number not in end.link.seen:
        end.link.seen.add(number)
    size = (None, None, None, 1, 7, 1000, 30_000, None)[b % 8]
    end.deliver(piece, size, with_end=b % 3 != 0)


@rule(40)
def deliver(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Let one piece arrive."""
    ways = _ways(system)
    if not ways:
        return False
    end, pieces = ways[a % len(ways)]
    system.loop.call(deliver_one, system, end, pieces[c % len(pieces)], b)
    return True


@rule(16)
def deliver_together(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Several pieces arrive in one turn of the loop."""
    ways = _ways(system)
    if not ways:
        return False
    end, _ = ways[a % len(ways)]

    def together() -> None:
        nonlocal c
        for _ in range(2 + b % 6):
            pieces = end.pieces()
            if not pieces:
                break
            c = c * 1103515245 + 12345 & 0x7FFFFFFF
            deliver_one(system, end, pieces[(c >> 8) % len(pieces)], c >> 16)

    system.loop.call(together)
    return True


@rule(20)
def flow(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A link carries in both directions for a while."""
    links = [link for link in _open_links(system) if any(end.pieces() for end in link.ends)]
    if not links:
        return False
    link = links[a % len(links)]
    for _ in range(4 + b % 60):
        ways = [(end, pieces) for end in link.ends if (pieces := end.pieces())]
        if not ways or link.client.closed is not None:
            break
        c = c * 1103515245 + 12345 & 0x7FFFFFFF
        end, pieces = ways[(c >> 8) % len(ways)]
        system.loop.call(deliver_one, system, end, pieces[(c >> 12) % len(pieces)], 0)
    return True


@rule(6)
def refuse_one_of_pool(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A local service of a pool refuses a visitor, and all hear of it."""
    running = [program.ticket for program in system.programs if program.state == "running"]
    dials = [
        dial for dial in system.dials if dial.program.ticket.is_pool and running.count(dial.program.ticket) > 1
    ]
    if not dials:
        return False
    system.loop.call(system.refuse, dials[a % len(dials)])
    system.network.deliver_all(system)
    return True


@rule(3)
def calm(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Everything arrives that can; then both sides of each session know the same streams."""
    for _ in range(2):
        system.network.deliver_all(system)
        system.loop.advance(0.3)
    system.network.deliver_all(system)
    check_rest(system)
    return True


@rule(3)
def pause_link(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Nothing arrives on a link for the time being."""
    links = _open_links(system)
    if not links:
        return False
    links[a % len(links)].is_paused = True
    return True


@rule(5)
def go_on_link(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A link that paused carries again."""
    links = [link for link in system.network.live_links() if link.is_paused]
    if not links:
        return False
    links[a % len(links)].is_paused = False
    system.reach("a link came back")
    return True


@rule(2)
def cut_link(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A link carries nothing any more, and nobody is told."""
    links = _open_links(system)
    if not links:
        return False
    links[a % len(links)].is_cut = True
    system.reach("a link was cut")
    return True


@rule(4)
def lose_link(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Let one end of a link fail (a time-out of its own, a fault inside its engine); the other end is not told."""
    ends = [
        end for link in system.network.live_links() for end in link.ends if end.closed is None and end.is_connected
    ]
    if not ends:
        return False
    end = ends[a % len(ends)]
    end.link.is_cut = True
    system.reach("a link was lost at the client" if end.is_client else "a link was lost at the edge")
    system.loop.call(end.die, (CloseCause.TIMEOUT, CloseCause.INTERNAL)[b % 2])
    return True


@rule(4)
def resume_halfway(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A client loses its link and dials again, as far as the edge's answer, which is still under way."""
    links = [link for link in _open_links(system) if link.client.is_connected and link.client.closed is None]
    links = [link for link in links if len(link.streams) > 1] or links
    if not links:
        return False
    lost = links[a % len(links)]
    lost.is_cut = True
    system.loop.call(lost.client.die, CloseCause.TIMEOUT)
    system.reach("a link was lost at the client")
    system.loop.advance(1.0)
    for link in [link for link in _open_links(system) if link.number > lost.number]:
        for end in (link.client, link.server, link.client, link.client)[: 1 + b % 4]:
            end = end or link.server  # noqa: PLW2901  it was made by the first packet
            for piece in end.pieces() if end is not None else ():
                system.loop.call(end.deliver, piece)
    return True


@rule(8)
def stateless_reset(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A client hears that the edge does not know its connection any more."""
    links = [
        link
        for link in system.network.live_links()
        if link.client.closed is None and link.client.is_connected
        and link.server is not None and (link.server.engine.is_dead or link.server.closed is not None)
    ]  # fmt: skip
    if not links:
        return False
    link = links[a % len(links)]
    link.is_cut = True
    system.reach("stateless reset")
    system.loop.call(link.client.die, CloseCause.RESET)
    return True
