"""Rules: what can happen, each with a weight. A rule takes three numbers, which decide the rest.

Here are the rules for visitors, time, programs and edges. Those for links are in ``scripted_rules`` and
``simnet_rules``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quictunnel.network import Change
from quictunnel.wire.codes import SessionCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.tcp import Peer
    from tests.model.world import World

    Rule = Callable[[World, int, int, int], bool]
    Rules = dict[str, tuple[int, Rule]]

SIZES: Final = (1, 10, 300, 3_000, 3_000, 20_000, 70_000, 150_000)
PAUSES: Final = (0.01, 0.05, 0.3, 0.3, 1.1, 1.1, 2.2, 3.5, 5.0, 11.0)
LONG_PAUSES: Final = (31.0, 31.0, 65.0, 125.0)
MAX_VISITORS: Final = 12
MAX_PROGRAMS: Final = 5

COMMON: Final[Rules] = {}


def rule(weight: int, rules: Rules = COMMON) -> Callable[[Rule], Rule]:
    """Add a function to the rules; it returns False when it cannot be applied."""

    def add(function: Rule) -> Rule:
        rules[function.__name__] = weight, function
        return function

    return add


# Visitors and local services.


@rule(14)
def come(world: World, a: int, b: int, c: int) -> bool:
    """A visitor comes; most have finished their handshake at once."""
    if sum(not visitor.is_over for visitor in world.visitors) >= MAX_VISITORS or not world.tickets:
        return False
    visitor = world.come(world.tickets[a % len(world.tickets)])
    if visitor is None:
        return False
    if b % 6:
        world.loop.call(world.enter, visitor)
    return True


@rule(4)
def enter(world: World, a: int, b: int, c: int) -> bool:
    """A visitor finishes its handshake."""
    waiting = [visitor for visitor in world.visitors if not visitor.is_in]
    if not waiting:
        return False
    world.loop.call(world.enter, waiting[a % len(waiting)])
    return True


@rule(12)
def accept(world: World, a: int, b: int, c: int) -> bool:
    """A local service takes a connection."""
    if not world.dials:
        return False
    world.loop.call(world.accept, world.dials[a % len(world.dials)])
    return True


@rule(1)
def refuse(world: World, a: int, b: int, c: int) -> bool:
    """A local service refuses one."""
    if not world.dials:
        return False
    world.loop.call(world.refuse, world.dials[a % len(world.dials)])
    return True


def _peers(world: World) -> list[Peer]:
    return [peer for visitor in world.visitors if visitor.is_in for peer in visitor.ends if not peer.is_done]


def _pick(world: World, a: int) -> Peer | None:
    peers = _peers(world)
    return peers[a % len(peers)] if peers else None


@rule(24)
def speak(world: World, a: int, b: int, c: int) -> bool:
    """A visitor or a local service sends bytes."""
    peers = [peer for peer in _peers(world) if not peer.has_ended]
    if not peers:
        return False
    world.loop.call(peers[a % len(peers)].send, SIZES[b % len(SIZES)])
    return True


@rule(9)
def end(world: World, a: int, b: int, c: int) -> bool:
    """One of them sends a FIN."""
    peers = [peer for peer in _peers(world) if not peer.has_ended]
    if not peers:
        return False
    world.loop.call(peers[a % len(peers)].end)
    return True


@rule(3)
def reset(world: World, a: int, b: int, c: int) -> bool:
    """One of them resets its connection."""
    peer = _pick(world, a)
    if peer is None:
        return False
    _note_leaver(world, peer)
    world.loop.call(peer.reset)
    return True


def _note_leaver(world: World, peer: Peer) -> None:
    for visitor in world.visitors:
        stream = visitor.splice.stream
        if visitor.peer is peer and stream is not None and visitor.origin is not None:
            if stream._session.is_awaiting_standing:
                world.reach("leaver within the round trip of a resume")
            elif stream._session.is_away:
                world.reach("leaver while the client is away")


@rule(6)
def reset_while_resuming(world: World, a: int, b: int, c: int) -> bool:
    """A visitor, or its local service, resets while a session is away or resumes."""
    peers = [
        visitor.ends[b % len(visitor.ends)]
        for visitor in world.visitors
        if (stream := visitor.splice.stream) is not None
        and (stream._session.is_away or stream._session.is_awaiting_standing)
    ]
    peers = [peer for peer in peers if not peer.is_done]
    if not peers:
        return False
    _note_leaver(world, peers[a % len(peers)])
    world.loop.call(peers[a % len(peers)].reset)
    return True


@rule(3)
def stop_reading(world: World, a: int, b: int, c: int) -> bool:
    """One of them reads no more."""
    peer = _pick(world, a)
    if peer is None or not peer.reads:
        return False
    peer.reads = False
    return True


@rule(5)
def read_on(world: World, a: int, b: int, c: int) -> bool:
    """One of them reads again."""
    peers = [peer for visitor in world.visitors for peer in visitor.ends if not peer.reads]
    if not peers:
        return False
    world.loop.call(peers[a % len(peers)].read_on)
    return True


@rule(1)
def move(world: World, a: int, b: int, c: int) -> bool:
    """A client's network changes, or a router gives it another port."""
    programs = [program for program in world.programs if program.state == "running"]
    if not programs:
        return False
    change = (Change.MOVED, Change.STIRRED, Change.SLEPT)[b % 3]
    world.reach(f"network: {change.name.lower()}")
    world.loop.call(programs[a % len(programs)].uplink._network_changed, change)
    return True


# Time.


@rule(14)
def pass_time(world: World, a: int, b: int, c: int) -> bool:
    """Some time passes."""
    world.loop.advance(PAUSES[a % len(PAUSES)])
    return True


@rule(1)
def pass_long_time(world: World, a: int, b: int, c: int) -> bool:
    """A long time passes, in which links that carry nothing are lost."""
    world.loop.advance(LONG_PAUSES[a % len(LONG_PAUSES)])
    return True


# Programs and edges.


@rule(2)
def start_program(world: World, a: int, b: int, c: int) -> bool:
    """A program is started, with a ticket or a name of its own or with one that is in use."""
    running = [program for program in world.programs if program.state == "running"]
    if len(running) >= MAX_PROGRAMS or len(world.programs) > 20:
        return False
    known = [ticket for ticket in world.tickets if ticket.content or (ticket.name is not None and ticket.host)]
    if not known or b % 3 == 0:
        if len(world.tickets) >= 3:
            return False
        world.loop.call(world.start_program, None)
        return True
    ticket = known[a % len(known)]
    if any(program.ticket is ticket for program in running):
        world.reach("a ticket is used twice")
    world.loop.call(world.start_program, ticket)
    return True


@rule(1)
def close_program(world: World, a: int, b: int, c: int) -> bool:
    """A program ends, in good order or killed."""
    running = [program for program in world.programs if program.state == "running"]
    if len(running) < 2:
        return False
    program = running[a % len(running)]
    world.reach("a program was killed" if b % 2 else "a program was closed")
    world.loop.call(program.kill if b % 2 else program.close)
    return True


@rule(1)
def release(world: World, a: int, b: int, c: int) -> bool:
    """A program gives its name back, at any moment; it may ask for it again if nobody else has its ticket."""
    programs = [program for program in world.programs if program.may_release]
    if not programs or c % 2:
        return False
    program = programs[a % len(programs)]
    is_alone = all(other is program for other in world.programs if other.ticket is program.ticket)
    session = program.session
    if session is None or session.is_away:
        world.reach("a name was given back without a link")
    elif session.is_awaiting_standing:
        world.reach("a name was given back within the round trip of a resume")
    elif session.streams:
        world.reach("a name was given back with visitors")
    world.release(program, then_bind=is_alone and b % 2 == 0)
    return True


@rule(1)
def take_over(world: World, a: int, b: int, c: int) -> bool:
    """A successor takes over from the edge, which lets its visitors finish."""
    edge = world.edge
    if edge is None or len(world.edges) > 6:
        return False
    if any(visitor.is_in and not visitor.is_over for visitor in world.visitors):
        world.reach("takeover with visitors")
    names = world.loop.call(edge.hand_over)
    world.loop.call(world.start_edge, names)
    return True


@rule(1)
def restart(world: World, a: int, b: int, c: int) -> bool:
    """The edge is killed, or stops in good order, and another one is started that knows the names of before."""
    edge = world.edge
    if edge is None or len(world.edges) > 6 or c % 2:
        return False
    names = edge.names()
    world.reach("the edge was killed" if b % 2 else "the edge was restarted")
    world.loop.call(edge.kill if b % 2 else edge.leave)
    world.loop.call(world.start_edge, names)
    return True


@rule(1)
def end_session(world: World, a: int, b: int, c: int) -> bool:
    """The operator ends a session."""
    if world.edge is None or c % 4:
        return False
    guests = [guest for guest in world.edge.guests_ever if not guest.is_over and guest.identity is not None]
    if not guests:
        return False
    guest = guests[a % len(guests)]
    program = world.program_of(guest.digest)
    if program is None:
        return False  # it has not been greeted yet
    world.dead.setdefault(guest.digest, "the operator ended it")
    program.may_fail = True
    world.loop.call(guest.end, SessionCode.ENDED)
    return True
