"""Rules: what can happen, each with a weight. A rule takes three numbers, which decide the rest.

Here are the rules for visitors, time, programs and edges. Those for links are in ``scripted_rules`` and
``simnet_rules``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quictunnel.connection.network_monitor import NetworkChange
from quictunnel.wire.codes import SessionCode
from tests.model.program import KINDS
from tests.model.stores import SECOND_TOKEN
from tests.model.visitor import CLOSED

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.program import Program
    from tests.model.system import ModelSystem
    from tests.model.tcp import Peer

    Rule = Callable[[ModelSystem, int, int, int], bool]
    Rules = dict[str, tuple[int, Rule]]

SIZES: Final = (1, 10, 300, 3_000, 3_000, 20_000, 70_000, 150_000)
PAUSES: Final = (0.01, 0.05, 0.3, 0.3, 1.1, 1.1, 2.2, 3.5, 5.0, 11.0)
LONG_PAUSES: Final = (31.0, 31.0, 65.0, 125.0)
MAX_VISITORS: Final = 12
MAX_PROGRAMS: Final = 5
NEW_KINDS: Final = (*KINDS, "pool")
"""Of new tunnels; more pools than others, which need several programs."""

COMMON: Final[Rules] = {}


def rule(weight: int, rules: Rules = COMMON) -> Callable[[Rule], Rule]:
    """Add a function to the rules; it returns False when it cannot be applied."""

    def add(function: Rule) -> Rule:
        rules[function.__name__] = weight, function
        return function

    return add


# Visitors and local services.


@rule(14)
def come(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A visitor comes; most have finished their handshake at once."""
    if sum(not visitor.is_over for visitor in system.visitors) >= MAX_VISITORS or not system.tickets:
        return False
    visitor = system.come(system.tickets[a % len(system.tickets)])
    if visitor is None:
        return False
    if b % 6:
        system.loop.call(system.enter, visitor)
    return True


@rule(6)
def come_to_port(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A visitor connects to a public TCP port."""
    ports = sorted(system.ports.taken())
    if not ports or sum(not visitor.is_over for visitor in system.visitors) >= MAX_VISITORS:
        return False
    visitor = system.come_to_port(ports[a % len(ports)], b)
    if visitor is None:
        return False
    system.loop.call(system.enter, visitor)
    return True


@rule(4)
def enter(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A visitor finishes its handshake."""
    waiting = [visitor for visitor in system.visitors if not visitor.is_in]
    if not waiting:
        return False
    system.loop.call(system.enter, waiting[a % len(waiting)])
    return True


@rule(12)
def accept(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A local service takes a connection."""
    if not system.dials:
        return False
    system.loop.call(system.accept, system.dials[a % len(system.dials)])
    return True


@rule(3)
def refuse(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A local service refuses one; sooner one of a pool, whose visitor another may take."""
    if not system.dials:
        return False
    dials = [dial for dial in system.dials if dial.program.ticket.is_pool] or system.dials
    system.loop.call(system.refuse, dials[a % len(dials)])
    return True


def _peers(system: ModelSystem) -> list[Peer]:
    return [peer for visitor in system.visitors if visitor.is_in for peer in visitor.ends if not peer.is_done]


def _pick(system: ModelSystem, a: int) -> Peer | None:
    peers = _peers(system)
    return peers[a % len(peers)] if peers else None


@rule(24)
def speak(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A visitor or a local service sends bytes."""
    peers = [peer for peer in _peers(system) if not peer.has_ended]
    if not peers:
        return False
    system.loop.call(peers[a % len(peers)].send, SIZES[b % len(SIZES)])
    return True


@rule(9)
def end(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Let a peer send a FIN."""
    peers = [peer for peer in _peers(system) if not peer.has_ended]
    if not peers:
        return False
    system.loop.call(peers[a % len(peers)].end)
    return True


@rule(6)
def end_while_closing(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A visitor, or its local service, finishes while the tunnel gives it the time to."""
    peers = [peer for each in system.visitors if each.is_in and each.excuse == CLOSED for peer in each.ends]
    peers = [peer for peer in peers if not peer.is_done and not peer.has_ended]
    if not peers or not any(program.is_releasing for program in system.programs):
        return False
    system.loop.call(peers[a % len(peers)].end)
    return True


@rule(3)
def reset(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Let a peer reset its connection."""
    peer = _pick(system, a)
    if peer is None:
        return False
    _note_leaver(system, peer)
    system.loop.call(peer.reset)
    return True


def _note_leaver(system: ModelSystem, peer: Peer) -> None:
    for visitor in system.visitors:
        stream = visitor.splice.stream
        if visitor.peer is peer and stream is not None and visitor.origin is not None:
            if stream._session.is_awaiting_resume_state:
                system.reach("leaver within the round trip of a resume")
            elif stream._session.is_away:
                system.reach("leaver while the client is away")


@rule(6)
def reset_while_resuming(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A visitor, or its local service, resets while a session is away or resumes."""
    peers = [
        visitor.ends[b % len(visitor.ends)]
        for visitor in system.visitors
        if (stream := visitor.splice.stream) is not None
        and (stream._session.is_away or stream._session.is_awaiting_resume_state)
    ]
    peers = [peer for peer in peers if not peer.is_done]
    if not peers:
        return False
    _note_leaver(system, peers[a % len(peers)])
    system.loop.call(peers[a % len(peers)].reset)
    return True


@rule(3)
def stop_reading(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Let a peer stop reading."""
    peer = _pick(system, a)
    if peer is None or not peer.reads:
        return False
    peer.reads = False
    return True


@rule(5)
def read_on(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Let a peer read again."""
    peers = [peer for visitor in system.visitors for peer in visitor.ends if not peer.reads]
    if not peers:
        return False
    system.loop.call(peers[a % len(peers)].read_on)
    return True


@rule(1)
def move(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A client's network changes, or a router gives it another port."""
    programs = [program for program in system.programs if program.state == "running"]
    if not programs:
        return False
    change = (NetworkChange.ADDRESS, NetworkChange.OFF_ROUTE, NetworkChange.SUSPENDED)[b % 3]
    system.reach(f"network: {change.name.lower()}")
    system.loop.call(programs[a % len(programs)].manager._network_changed, change)
    return True


# Time.


@rule(14)
def pass_time(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Some time passes."""
    system.loop.advance(PAUSES[a % len(PAUSES)])
    return True


@rule(1)
def pass_long_time(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A long time passes, in which links that carry nothing are lost."""
    system.loop.advance(LONG_PAUSES[a % len(LONG_PAUSES)])
    return True


# Programs and edges.


@rule(2)
def start_program(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A program is started, with a ticket or a name of its own or with one that is in use."""
    running = [program for program in system.programs if program.state == "running"]
    if len(running) >= MAX_PROGRAMS or len(system.programs) > 20:
        return False
    known = [ticket for ticket in system.tickets if ticket.content or (ticket.name is not None and ticket.host)]
    if not known or b % 3 == 0:
        if len(system.tickets) >= 3:
            return False
        system.loop.call(system.start_program, None, NEW_KINDS[a % len(NEW_KINDS)], c % 2 == 0)
        return True
    known = [ticket for ticket in known if ticket.is_pool and b % 3 == 1] or known
    ticket = known[a % len(known)]
    if any(program.ticket is ticket for program in running):
        system.reach("a ticket is used twice")
    system.loop.call(system.start_program, ticket)
    return True


@rule(1)
def close_program(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A program ends, in good order or killed."""
    running = [program for program in system.programs if program.state == "running"]
    if len(running) < 2:
        return False
    program = running[a % len(running)]
    what = "a program was killed" if b % 2 else "a program was closed"
    system.reach(what)
    if program.ticket.is_pool and any(each is not program and each.ticket is program.ticket for each in running):
        system.reach(f"{what} while others of its pool go on")
    system.loop.call(program.kill if b % 2 else program.close)
    return True


@rule(1)
def release(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A program gives its name back, at any moment; it may ask for it again if nobody else has its ticket."""
    programs = [program for program in system.programs if program.may_release]
    if not programs or c % 2:
        return False
    _release(system, programs[a % len(programs)], b)
    return True


def _release(system: ModelSystem, program: Program, b: int) -> None:
    is_alone = all(other is program for other in system.programs if other.ticket is program.ticket)
    system.reach(f"a name was given back {_moment(system, program)}")
    system.release(program, then_bind=(is_alone or program.ticket.is_pool) and b % 2 == 0)


def _is_resuming(system: ModelSystem, program: Program) -> bool:
    """Return True if one side of a program's session has not heard how the other stands."""
    session = program.session
    if session is None:
        return False
    return any(each.is_awaiting_resume_state for each in (session, *system.sessions_of(program)))


def _moment(system: ModelSystem, program: Program) -> str:
    """Return what a program's session is in the midst of."""
    session = program.session
    if _is_resuming(system, program):
        return "within the round trip of a resume"
    if session is None or session.is_away:
        return "without a link"
    return "with visitors" if session.stream_count else "at rest"


@rule(1)
def revoke(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """The operator revokes a token."""
    programs = [program for program in system.programs if program.state == "running"]
    return bool(programs) and _revoke(system, programs[a % len(programs)])


def _revoke(system: ModelSystem, program: Program) -> bool:
    if program.ticket.token != SECOND_TOKEN or system.tokens.is_revoked:
        return False
    system.reach(f"a token was revoked {_moment(system, program)}")
    system.loop.call(system.revoke)
    return True


@rule(1)
def ban(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """The operator withdraws a name."""
    programs = [program for program in system.programs if program.state == "running"]
    return not c % 4 and bool(programs) and _ban(system, programs[a % len(programs)])


def _ban(system: ModelSystem, program: Program) -> bool:
    ticket = program.ticket
    if not ticket.host or any(each.is_banned for each in system.tickets):
        return False
    system.reach(f"a name was banned {_moment(system, program)}")
    system.loop.call(system.ban, ticket)
    return True


@rule(8)
def withdraw_while_resuming(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """While a session is away or resumes its program gives its name back, or the operator withdraws it."""
    running = [program for program in system.programs if program.state == "running"]
    programs = [program for program in running if _is_resuming(system, program)]
    programs = programs or [
        program for program in running if program.session is not None and program.session.is_away
    ]
    if not programs:
        return False
    program = programs[a % len(programs)]
    if c % 4 == 0:
        return _revoke(system, program)
    if c % 4 == 1:
        return _ban(system, program)
    if c % 4 == 2 and program.may_release:
        _release(system, program, b)
        return True
    return False


@rule(1)
def take_over(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A successor takes over from the edge, which lets its visitors finish."""
    edge = system.edge
    if edge is None or len(system.edges) > 6:
        return False
    if any(visitor.is_in and not visitor.is_over for visitor in system.visitors):
        system.reach("takeover with visitors")
    names = system.loop.call(edge.hand_over)
    system.loop.call(system.start_edge, names)
    return True


@rule(1)
def restart(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """The edge is killed, or stops in good order, and another one is started that knows the names of before."""
    edge = system.edge
    if edge is None or len(system.edges) > 6 or c % 2:
        return False
    names = edge.noted_names(is_last=not b % 2)
    system.reach("the edge was killed" if b % 2 else "the edge was restarted")
    system.loop.call(edge.kill if b % 2 else edge.leave)
    system.loop.call(system.start_edge, names)
    return True


@rule(1)
def end_session(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """The operator ends a session."""
    if system.edge is None or c % 4:
        return False
    clients = [client for client in system.edge.all_clients if not client.is_over and client.identity is not None]
    if not clients:
        return False
    client = clients[a % len(clients)]
    program = system.program_of(client.digest)
    if program is None:
        return False  # it has not been greeted yet
    system.dead.setdefault(client.digest, "the operator ended it")
    program.may_fail = True
    system.loop.call(client.end, SessionCode.ENDED)
    return True
