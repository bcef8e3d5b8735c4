"""Promises that hold after every step, at rest, and at the end, when the network is well and all finish."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from quictunnel.transport.resume_exchange import MAX_REMEMBERED
from tests.model.edge import HOLD
from tests.model.visitor import CLOSED

if TYPE_CHECKING:
    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.visitor_log import Carrier, VisitorConnection
    from quictunnel.transport.session import Session
    from tests.model.program import Program, Ticket
    from tests.model.visitor import Visitor
    from tests.model.world import World

WAIT = 10.0
SERVED_WITHIN = 12
"""Seconds until a visitor is served when all is well: a router that has given a client another port lets the edge
through when the client has said something, which it does every ``link.KEEPALIVE`` seconds."""


def check_step(world: World) -> None:
    """Raise BrokenError for the first promise that does not hold now."""
    while world.fault_log.found:
        world.fail(*world.fault_log.found.pop(0))
    for visitor in world.visitors:
        _check_resets(world, visitor)
        if visitor.excuse == CLOSED and visitor.is_served and _tunnel_closes(world, visitor):
            world.reach("a visitor finished while its tunnel closed")
        stream = visitor.splice.stream
        if stream is not None and not stream.is_over and not stream._sender.room:
            world.reached["a visitor waits for credit"] += 1
    for program in world.programs:
        state = program.manager.state
        if program.state == "running" and state in ("failed", "refused") and not program.may_fail:
            if not world.is_superseded(program):
                world.fail("a program gave up without a cause", f"{program}: {program.events[-3:]}")
            program.may_fail = True
    _check_tunnels(world)
    world.visitors = [visitor for visitor in world.visitors if not _is_settled(visitor)]


def _check_tunnels(world: World) -> None:
    """No visitor waits for clients that have a link, and none for a tunnel that is over."""
    for edge in world.edges:
        for tunnel in edge.services.registry.alive:
            has_links = all(backend.session.is_ready for backend in tunnel.backends)
            if len(tunnel.waiting) and tunnel.backends and has_links:
                world.fail("a visitor waits although its client has a link", f"{tunnel.name}")
            if len(tunnel.waiting) and edge.find_name(tunnel.name) is not tunnel:
                world.fail("a visitor waits for a tunnel that is over", f"{tunnel.name}")
            served = sum(visit.carrier is not None for visit in tunnel.visitors.values())
            active = {each for each in map(_carrier_of, tunnel.visitors.values()) if each is not None}
            if served != sum(backend.active for backend in active):
                world.fail("a client's visitors are counted wrong", f"{tunnel.name}: {served}")


def _carrier_of(visit: VisitorConnection) -> Carrier | None:
    return visit.carrier


def _tunnel_closes(world: World, visitor: Visitor) -> bool:
    """Return True if the program that serves a visitor gives its name back."""
    return any(program.is_releasing and visitor.client_session in program.sessions() for program in world.programs)


def _is_settled(visitor: Visitor) -> bool:
    """Return True if nothing can happen to it any more."""
    return visitor.origin is not None and visitor.is_over


def _check_resets(world: World, visitor: Visitor) -> None:
    """A reset by the tunnel needs a cause."""
    if visitor.excuse:
        return
    if any(peer.has_reset for peer in visitor.ends):
        return
    if visitor.splice.lost is not None and visitor.origin is None and any(p.error for p in world.programs):
        visitor.excuse = "a program did not wait for its name any longer"
        return
    for peer in visitor.ends:
        if peer.was_reset:
            splice = visitor.splice
            if peer is visitor.peer and splice.is_refused:
                waited = world.loop.time() - visitor.came_at
                had_no_stream = world.network.refused_streams(visitor.edge.introspection.endpoint)
                if waited >= WAIT - 0.01 or had_no_stream or not visitor.tunnel.is_open:
                    visitor.excuse = "sent away"
                    world.reach("a visitor was sent away")
                    return
                world.fail("a visitor was refused without a cause", f"{visitor} after {waited:.2f} s")
                return
            world.fail("a reset without a cause", f"{visitor}")


def check_rest(world: World) -> None:
    """Both sides of a session know the same streams when nothing is under way between them."""
    for program in world.programs:
        connection = program.manager._connection
        if (
            connection is None
            or connection.welcome is None
            or not world.network.is_well(connection)
            or connection.session.is_awaiting_resume_state
        ):
            continue
        guest = world.guest_of(connection)
        if guest is None or guest.is_over or guest.session.is_away or guest.session.is_awaiting_resume_state:
            continue
        if not world.network.is_at_rest(connection, guest):
            continue
        world.reached["a session at rest"] += 1
        ours, theirs = set(connection.session._streams), set(guest.session._streams)
        if ours - theirs:
            world.fail("a stream that only the client knows", f"{program}: {ours - theirs}")
        if theirs - ours and not guest.session._exchange._to_open:
            world.fail("a stream that only the edge knows", f"{program}: {theirs - ours}")
        if connection.session.skipped_numbers:
            world.fail("numbers that will never be seen", f"{program}: {connection.session._numbers._skipped}")
    _check_ports(world)


def _check_ports(world: World) -> None:
    """The edge that serves listens on a TCP port, no other one, and for one name."""
    for port in world.ports.taken():
        tunnels = [server.tunnel for server in world.ports.accepting(port)]
        if len({tunnel.name for tunnel in tunnels}) > 1:
            world.fail("two tunnels listen on one port", f"{port}: {[tunnel.name for tunnel in tunnels]}")
        if any(world.edge is None or tunnel._admission is not world.edge.services.admission for tunnel in tunnels):
            world.fail("an edge that leaves still listens", f"port {port}")


def settle(world: World) -> None:
    """Make the network well, let everybody finish, and see that nothing is left."""
    world.network.mend()
    if world.edge is None:
        world.loop.call(world.start_edge, [])
    _run(world, lambda: all(_is_up(world, program) for program in world.programs), "clients that do not come back",
         most=HOLD + 100)  # fmt: skip
    world.network.carry(world, 1.0)
    _check_holders(world)
    for visitor in world.visitors:
        if not visitor.is_in:
            world.loop.call(world.enter, visitor)
        for peer in visitor.ends:
            if not peer.reads:
                world.loop.call(peer.read_on)
    world.network.carry(world, 1.0)
    _check_given_up(world)
    _probe(world)

    def all_over() -> bool:
        for visitor in world.visitors:
            for peer in visitor.ends:
                if not peer.is_done and not peer.has_ended:
                    world.loop.call(peer.end)
        return all(visitor.is_over or not visitor.is_in for visitor in world.visitors)

    _run(world, all_over, "a visitor that does not end")
    _run(world, lambda: not _left(world), "something that is left", show=lambda: _left(world))
    for program in world.programs:
        is_suspect = program.state == "running" and program.manager.state == "suspect"
        if is_suspect and program.error is None:
            world.fail("a link that is well is called suspect", f"{program}")
    _end(world)


def _is_up(world: World, program: Program) -> bool:
    if program.state != "running" or program.manager.state in ("failed", "refused"):
        return True
    if world.is_revoked(program.ticket) and program.error is None:
        return False
    if not program._task.done():
        return False
    connection = program.manager._connection
    if program.error is not None:
        # It wants no name any more, and gives back the one that it had.
        return program.manager._resumable.session is None and (
            connection is None or world.network.is_well(connection)
        )
    if connection is None or connection.welcome is None or not world.network.is_well(connection):
        return False
    guest = world.guest_of(connection)
    if guest is not None and (world.edge is None or guest not in world.edge.guests_ever):
        return False
    if guest is None or guest.session.is_away or guest.session.is_awaiting_resume_state:
        return False
    return (
        program.manager.state in ("connected", "migrating", "suspect")
        and not connection.session.link.is_down
        and not connection.session.is_awaiting_resume_state
        and program.manager._grace is None
    )


def _run(world: World, is_done: Any, what: str, *, most: float = HOLD + 100, show: Any = None) -> None:
    """Let time pass and everything arrive until it is done."""
    start = world.loop.time()
    while not is_done():
        world.network.carry(world, 0.5)
        if world.loop.time() > start + most:
            if show is not None:
                nouns = {noun.partition(": ")[2].lstrip("0123456789 ") for noun in show()}
                for noun in sorted(nouns):
                    world.fail(f"{what}: {noun}", str(show()))
                return
            world.fail(what, f"{world.programs}; {world.visitors}")
            return


def _newest(world: World, ticket: Ticket) -> Program | None:
    """Return the program that was given the ticket's name last, not counting those that only came back."""
    having = [program for program in world.programs if program.ticket is ticket and program.turn]
    return max(having, key=lambda program: program.turn, default=None)


def _holder(world: World, ticket: Ticket) -> Program | None:
    assert world.edge is not None
    tunnel = world.edge.find(ticket.host)
    if tunnel is None or not tunnel.backends:
        return None
    session = tunnel.backends[0].session
    guest = next((guest for guest in world.edge.guests_ever if guest.session is session), None)
    return None if guest is None else world.program_of(guest.digest)


def _check_holders(world: World) -> None:
    """A program with a ticket has its name, and not an older one than those that are there."""
    for ticket in world.tickets:
        if ticket.is_pool:
            _check_pool(world, ticket)
            continue
        newest, holder = _newest(world, ticket), _holder(world, ticket)
        if newest is None or newest.state != "running" or newest.may_fail or holder is newest:
            continue
        if newest.is_released:
            continue
        if holder is None:
            world.fail("a name that nobody has", f"{newest} ({newest.events[-4:]}); {ticket.host}")
        elif holder in newest.older:
            world.fail("the newest holder lost", f"{newest} ({newest.events[-4:]}); {holder} has {ticket.host}")


def _check_pool(world: World, ticket: Ticket) -> None:
    """Check that each program that shares a name has it."""
    assert world.edge is not None
    tunnel = world.edge.find(ticket.host)
    sessions = [] if tunnel is None else [backend.session for backend in tunnel.backends]
    for program in world.programs:
        if program.ticket is not ticket or program.state != "running" or program.may_fail or program.is_released:
            continue
        guest = None if program.manager._connection is None else world.guest_of(program.manager._connection)
        if program.has_held and (guest is None or guest.session not in sessions):
            world.fail(
                "one of a pool that no visitor reaches", f"{program} ({program.events[-4:]}), {ticket.host}"
            )


def _check_given_up(world: World) -> None:
    """No name is kept for a program that has given it up."""
    assert world.edge is not None
    for guest in world.edge.guests_ever:
        program = world.program_of(guest.digest)
        if program is None or program.state != "running" or guest.is_over or guest.digest in world.dead:
            continue  # also where the client has ended a session that the edge still holds
        for lease in guest.holdings:
            if program.manager.leases.get(lease.number) is None:
                world.fail("a name that its program gave up", f"{lease.name} of {program}")
        connection = program.manager._connection
        if connection is not None and connection.welcome is not None and world.guest_of(connection) is guest:
            for held in program.manager.leases:
                is_had = held.is_requested and held.is_answered and not held.is_released
                if is_had and not guest.holdings.is_held(held.number) and not program.was_told:
                    world.fail(
                        "a program was not told that its name is gone", f"{program} ({program.events[-4:]})"
                    )


def _probe(world: World) -> None:
    """A visitor who comes now is served."""
    assert world.edge is not None
    for ticket in world.tickets:
        tunnel = world.edge.find(ticket.host) if ticket.host else None
        if world.is_withdrawn(ticket):
            if tunnel is not None and tunnel.backends:
                world.fail("a name that was withdrawn is held", f"{ticket.host}")
            continue
        newest = _server_of(world, ticket)
        if newest is None:
            continue
        visitor = world.come(ticket)
        if visitor is None:
            world.fail("a name that leads nowhere", f"{ticket.host} of {newest}")
            continue
        _check_served(world, visitor, newest)
        if ticket.has_port and tunnel is not None:
            visitor = world.come_to_port(tunnel.tcp_port, 0)
            if visitor is None:
                world.fail("a port where nobody listens", f"{tunnel.tcp_port} of {newest}")
                continue
            _check_served(world, visitor, newest)
    _check_ports(world)


def _server_of(world: World, ticket: Ticket) -> Program | None:
    """Return the program that has to serve a visitor of this name, if one has to."""
    if ticket.is_pool:
        _wait_for_pool(world, ticket)
        programs = [program for program in world.programs if program.ticket is ticket]
    else:
        holder = _holder(world, ticket) or _newest(world, ticket)
        programs = [] if holder is None else [holder]
    for program in programs:
        is_there = program.state == "running" and program.manager.state in ("connected", "suspect")
        if is_there and program.has_held and not program.may_fail and not program.is_released:
            return program
    return None


def _wait_for_pool(world: World, ticket: Ticket) -> None:
    """Let time pass until the edge knows which programs of a pool have died: others serve until then."""
    assert world.edge is not None
    tunnel = world.edge.find(ticket.host) if ticket.host else None
    if tunnel is None or not tunnel.is_pool:
        return
    connections = [program.manager._connection for program in world.programs if program.state == "running"]
    guests = [
        world.guest_of(connection)
        for connection in connections
        if connection is not None and connection.welcome is not None
    ]
    sessions = [guest.session for guest in guests if guest is not None]
    for _ in range(SERVED_WITHIN):
        if all(member.session in sessions or not _is_well(world, member) for member in tunnel.backends):
            return
        world.network.carry(world, 1.0)
    world.fail("a program that has died is called well", f"{ticket.host}")


def _is_well(world: World, backend: Backend) -> bool:
    return world.loop.call(lambda: backend.is_well)


def _check_served(world: World, visitor: Visitor, program: Program) -> None:
    """Let a visitor in, and see that bytes go both ways."""
    world.loop.call(world.enter, visitor)
    for _ in range(SERVED_WITHIN):
        world.network.carry(world, 1.0)
        if visitor.origin is not None:
            break
    else:
        if not visitor.excuse:
            world.fail("a visitor who is not served", f"{visitor}, {program}")
        return
    world.loop.call(visitor.peer.send, 10)
    world.loop.call(visitor.origin.send, 10)
    world.network.carry(world, 1.0)
    if (visitor.peer.received, visitor.origin.received) != (10, 10):
        world.fail("a visitor who is not served", f"{visitor}, {program}")


def _left_in(session: Session, where: str) -> list[str]:
    found = []
    for name, value in (
        ("streams", session.streams),
        ("numbers never seen", session.skipped_numbers),
        ("kept bytes", session.kept),
        ("window bytes", session.pool.used),
        ("streams to open", len(session._exchange._to_open)),
        ("streams that credit is owed for", session._credit_sender.waiting),
    ):
        if value:
            found.append(f"{where}: {value} {name}")
    if len(session._exchange._ended) > MAX_REMEMBERED:
        found.append(f"{where}: {len(session._exchange._ended)} remembered")
    if not session.is_away and not session.link.is_down and set(session.link.streams) - {0}:
        found.append(f"{where}: QUIC streams {set(session.link.streams) - {0}}")
    return found


def _left(world: World) -> list[str]:
    """Return what is left although no visitor is there any more."""
    found = []
    for program in world.programs:
        if program.session is not None and program.state == "running":
            found += _left_in(program.session, f"{program}")
        if program.manager.visitors.active_count:
            found.append(f"{program}: {program.manager.visitors.active_count} visits")
    for edge in world.edges:
        for session in edge.sessions():
            found += _left_in(session, f"edge {edge.number} ({edge.state})")
        inside = edge.visitors - sum(not visitor.is_over and visitor.edge is edge and visitor.is_in
                                     for visitor in world.visitors)  # fmt: skip
        if inside or edge.ledger.now:
            found.append(f"edge {edge.number}: {inside} visitors inside")
    found += [f"a dial of {dial.program}" for dial in world.dials]
    return found


def _end(world: World) -> None:
    """End programs and edges; no task and no timer may stay."""
    for program in world.programs:
        if program.state == "running":
            world.loop.call(program.close)
    world.network.carry(world, 2.0)
    for edge in world.edges:
        if edge.state == "serving":
            world.loop.call(edge.leave)
    world.network.carry(world, 30.0)
    tasks = [task for task in asyncio.all_tasks(world.loop) if not task.done()]
    if tasks:
        world.fail("tasks that stay", f"{tasks}")
    if left := world.network.left() + [f"a listening socket of port {port}" for port in world.ports.taken()]:
        world.fail("something that stays in the network", f"{left}")
    timers = world.loop.timers
    if timers:
        world.fail("timers that stay", f"{timers}")
    for edge in world.edges:
        if edge.leases or edge.visitors or len(edge.services.sessions):
            world.fail("something that stays at an edge", f"{list(edge.services.registry)}, {edge.visitors}")
