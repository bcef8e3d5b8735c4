"""Promises that hold after every step, at rest, and at the end, when the network is well and all finish."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from quictunnel.transport.resume_exchange import MAX_REMEMBERED
from tests.model.edge import HOLD
from tests.model.visitor import CLOSED

if TYPE_CHECKING:
    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.visitor_log import ServingBackend, VisitorConnection
    from quictunnel.transport.session import Session
    from tests.model.program import Program, Ticket
    from tests.model.system import ModelSystem
    from tests.model.visitor import Visitor

WAIT = 10.0
SERVED_WITHIN = 12
"""Seconds until a visitor is served when all is well: a router that has given a client another port lets the edge
through when the client has said something, which it does every ``link.KEEPALIVE`` seconds."""


def check_step(system: ModelSystem) -> None:
    """Raise BrokenError for the first promise that does not hold now."""
    while system.fault_log.found:
        system.fail(*system.fault_log.found.pop(0))
    for visitor in system.visitors:
        _check_resets(system, visitor)
        if visitor.excuse == CLOSED and visitor.is_served and _tunnel_closes(system, visitor):
            system.reach("a visitor finished while its tunnel closed")
        stream = visitor.splice.stream
        if stream is not None and not stream.is_over and not stream._sender.room:
            system.reached["a visitor waits for credit"] += 1
    for program in system.programs:
        state = program.manager.state
        if program.state == "running" and state in ("failed", "refused") and not program.may_fail:
            if not system.is_superseded(program):
                system.fail("a program gave up without a cause", f"{program}: {program.events[-3:]}")
            program.may_fail = True
    _check_tunnels(system)
    system.visitors = [visitor for visitor in system.visitors if not _is_settled(visitor)]


def _check_tunnels(system: ModelSystem) -> None:
    """No visitor waits for clients that have a link, and none for a tunnel that is over."""
    for edge in system.edges:
        for tunnel in edge.services.registry.alive:
            has_links = all(backend.session.is_ready for backend in tunnel.backends)
            if len(tunnel.waiting) and tunnel.backends and has_links:
                system.fail("a visitor waits although its client has a link", f"{tunnel.name}")
            if len(tunnel.waiting) and edge.find_name(tunnel.name) is not tunnel:
                system.fail("a visitor waits for a tunnel that is over", f"{tunnel.name}")
            served = sum(visit.backend is not None for visit in tunnel.visitors.values())
            active = {each for each in map(_backend_of, tunnel.visitors.values()) if each is not None}
            if served != sum(backend.active for backend in active):
                system.fail("a client's visitors are counted wrong", f"{tunnel.name}: {served}")


def _backend_of(visit: VisitorConnection) -> ServingBackend | None:
    return visit.backend


def _tunnel_closes(system: ModelSystem, visitor: Visitor) -> bool:
    """Return True if the program that serves a visitor gives its name back."""
    return any(
        program.is_releasing and visitor.client_session in program.sessions() for program in system.programs
    )


def _is_settled(visitor: Visitor) -> bool:
    """Return True if nothing can happen to it any more."""
    return visitor.origin is not None and visitor.is_over


def _check_resets(system: ModelSystem, visitor: Visitor) -> None:
    """A reset by the tunnel needs a cause."""
    if visitor.excuse:
        return
    if any(peer.has_reset for peer in visitor.ends):
        return
    if visitor.splice.lost is not None and visitor.origin is None and any(p.error for p in system.programs):
        visitor.excuse = "a program did not wait for its name any longer"
        return
    for peer in visitor.ends:
        if peer.was_reset:
            splice = visitor.splice
            if peer is visitor.peer and splice.is_refused:
                waited = system.loop.time() - visitor.came_at
                had_no_stream = system.network.refused_streams(visitor.edge.introspection.endpoint)
                if waited >= WAIT - 0.01 or had_no_stream or not visitor.tunnel.is_open:
                    visitor.excuse = "sent away"
                    system.reach("a visitor was sent away")
                    return
                system.fail("a visitor was refused without a cause", f"{visitor} after {waited:.2f} s")
                return
            system.fail("a reset without a cause", f"{visitor}")


def check_rest(system: ModelSystem) -> None:
    """Both sides of a session know the same streams when nothing is under way between them."""
    for program in system.programs:
        connection = program.manager._connection
        if (
            connection is None
            or connection.welcome is None
            or not system.network.is_healthy(connection)
            or connection.session.is_awaiting_resume_state
        ):
            continue
        client = system.client_of(connection)
        if client is None or client.is_over or client.session.is_away or client.session.is_awaiting_resume_state:
            continue
        if not system.network.is_at_rest(connection, client):
            continue
        system.reached["a session at rest"] += 1
        ours, theirs = set(connection.session._streams), set(client.session._streams)
        if ours - theirs:
            system.fail("a stream that only the client knows", f"{program}: {ours - theirs}")
        if theirs - ours and not client.session._exchange._to_open:
            system.fail("a stream that only the edge knows", f"{program}: {theirs - ours}")
        if connection.session.skipped_numbers:
            system.fail("numbers that will never be seen", f"{program}: {connection.session._numbers._skipped}")
    _check_ports(system)


def _check_ports(system: ModelSystem) -> None:
    """The edge that serves listens on a TCP port, no other one, and for one name."""
    for port in system.ports.taken():
        tunnels = [server.tunnel for server in system.ports.accepting(port)]
        if len({tunnel.name for tunnel in tunnels}) > 1:
            system.fail("two tunnels listen on one port", f"{port}: {[tunnel.name for tunnel in tunnels]}")
        if any(
            system.edge is None or tunnel._admission is not system.edge.services.admission for tunnel in tunnels
        ):
            system.fail("an edge that leaves still listens", f"port {port}")


def _are_all_up(system: ModelSystem) -> bool:
    return all(_is_up(system, program) for program in system.programs)


def settle(system: ModelSystem) -> None:
    """Make the network well, let everybody finish, and see that nothing is left."""
    system.network.mend()
    if system.edge is None:
        system.loop.call(system.start_edge, [])

    _run(system, lambda: _are_all_up(system), "clients that do not come back", most=HOLD + 100)
    system.network.carry(system, 1.0)
    _check_holders(system)
    for visitor in system.visitors:
        if not visitor.is_in:
            system.loop.call(system.enter, visitor)
        for peer in visitor.ends:
            if not peer.reads:
                system.loop.call(peer.read_on)
    system.network.carry(system, 1.0)
    _check_given_up(system)
    _probe(system)

    def all_over() -> bool:
        for visitor in system.visitors:
            for peer in visitor.ends:
                if not peer.is_done and not peer.has_ended:
                    system.loop.call(peer.end)
        return all(visitor.is_over or not visitor.is_in for visitor in system.visitors)

    _run(system, all_over, "a visitor that does not end")
    _run(system, lambda: not _left(system), "something that is left", show=lambda: _left(system))
    for program in system.programs:
        is_suspect = program.state == "running" and program.manager.state == "suspect"
        if is_suspect and program.error is None:
            system.fail("a link that is well is called suspect", f"{program}")
    _end(system)


def _is_up(system: ModelSystem, program: Program) -> bool:
    if program.state != "running" or program.manager.state in ("failed", "refused"):
        return True
    if system.is_revoked(program.ticket) and program.error is None:
        return False
    if not program._task.done():
        return False
    connection = program.manager._connection
    if program.error is not None:
        # It wants no name any more, and gives back the one that it had.
        return program.manager._resumable.session is None and (
            connection is None or system.network.is_healthy(connection)
        )
    if connection is None or connection.welcome is None or not system.network.is_healthy(connection):
        return False
    client = system.client_of(connection)
    if client is not None and (system.edge is None or client not in system.edge.all_clients):
        return False
    if client is None or client.session.is_away or client.session.is_awaiting_resume_state:
        return False
    return (
        program.manager.state in ("connected", "migrating", "suspect")
        and not connection.session.link.is_down
        and not connection.session.is_awaiting_resume_state
        and program.manager._grace is None
    )


def _run(system: ModelSystem, is_done: Any, what: str, *, most: float = HOLD + 100, show: Any = None) -> None:
    """Let time pass and everything arrive until it is done."""
    start = system.loop.time()
    while not is_done():
        system.network.carry(system, 0.5)
        if system.loop.time() > start + most:
            if show is not None:
                nouns = {noun.partition(": ")[2].lstrip("0123456789 ") for noun in show()}
                for noun in sorted(nouns):
                    system.fail(f"{what}: {noun}", str(show()))
                return
            system.fail(what, f"{system.programs}; {system.visitors}")
            return


def _newest(system: ModelSystem, ticket: Ticket) -> Program | None:
    """Return the program that was given the ticket's name last, not counting those that only came back."""
    having = [program for program in system.programs if program.ticket is ticket and program.turn]
    return max(having, key=lambda program: program.turn, default=None)


def _holder(system: ModelSystem, ticket: Ticket) -> Program | None:
    assert system.edge is not None
    tunnel = system.edge.find(ticket.host)
    if tunnel is None or not tunnel.backends:
        return None
    session = tunnel.backends[0].session
    client = next((client for client in system.edge.all_clients if client.session is session), None)
    return None if client is None else system.program_of(client.digest)


def _check_holders(system: ModelSystem) -> None:
    """A program with a ticket has its name, and not an older one than those that are there."""
    for ticket in system.tickets:
        if ticket.is_pool:
            _check_pool(system, ticket)
            continue
        newest, holder = _newest(system, ticket), _holder(system, ticket)
        if newest is None or newest.state != "running" or newest.may_fail or holder is newest:
            continue
        if newest.is_released:
            continue
        if holder is None:
            system.fail("a name that nobody has", f"{newest} ({newest.events[-4:]}); {ticket.host}")
        elif holder in newest.older:
            system.fail("the newest holder lost", f"{newest} ({newest.events[-4:]}); {holder} has {ticket.host}")


def _check_pool(system: ModelSystem, ticket: Ticket) -> None:
    """Check that each program that shares a name has it."""
    assert system.edge is not None
    tunnel = system.edge.find(ticket.host)
    sessions = [] if tunnel is None else [backend.session for backend in tunnel.backends]
    for program in system.programs:
        if program.ticket is not ticket or program.state != "running" or program.may_fail or program.is_released:
            continue
        client = None if program.manager._connection is None else system.client_of(program.manager._connection)
        if program.has_held and (client is None or client.session not in sessions):
            system.fail(
                "one of a pool that no visitor reaches", f"{program} ({program.events[-4:]}), {ticket.host}"
            )


def _check_given_up(system: ModelSystem) -> None:
    """No name is kept for a program that has given it up."""
    assert system.edge is not None
    for client in system.edge.all_clients:
        program = system.program_of(client.digest)
        if program is None or program.state != "running" or client.is_over or client.digest in system.dead:
            continue  # also where the client has ended a session that the edge still holds
        for lease in client.bindings:
            if program.manager.leases.get(lease.number) is None:
                system.fail("a name that its program gave up", f"{lease.name} of {program}")
        connection = program.manager._connection
        if connection is not None and connection.welcome is not None and system.client_of(connection) is client:
            for held in program.manager.leases:
                is_had = held.is_wanted and held.is_answered_in_session and not held.is_released
                if is_had and not client.bindings.is_held(held.number) and not program.was_told:
                    system.fail(
                        "a program was not told that its name is gone", f"{program} ({program.events[-4:]})"
                    )


def _probe(system: ModelSystem) -> None:
    """A visitor who comes now is served."""
    assert system.edge is not None
    for ticket in system.tickets:
        tunnel = system.edge.find(ticket.host) if ticket.host else None
        if system.is_withdrawn(ticket):
            if tunnel is not None and tunnel.backends:
                system.fail("a name that was withdrawn is held", f"{ticket.host}")
            continue
        newest = _server_of(system, ticket)
        if newest is None:
            continue
        visitor = system.come(ticket)
        if visitor is None:
            system.fail("a name that leads nowhere", f"{ticket.host} of {newest}")
            continue
        _check_served(system, visitor, newest)
        if ticket.has_port and tunnel is not None:
            visitor = system.come_to_port(tunnel.tcp_port, 0)
            if visitor is None:
                system.fail("a port where nobody listens", f"{tunnel.tcp_port} of {newest}")
                continue
            _check_served(system, visitor, newest)
    _check_ports(system)


def _server_of(system: ModelSystem, ticket: Ticket) -> Program | None:
    """Return the program that has to serve a visitor of this name, if one has to."""
    if ticket.is_pool:
        _wait_for_pool(system, ticket)
        programs = [program for program in system.programs if program.ticket is ticket]
    else:
        holder = _holder(system, ticket) or _newest(system, ticket)
        programs = [] if holder is None else [holder]
    for program in programs:
        is_there = program.state == "running" and program.manager.state in ("connected", "suspect")
        if is_there and program.has_held and not program.may_fail and not program.is_released:
            return program
    return None


def _wait_for_pool(system: ModelSystem, ticket: Ticket) -> None:
    """Let time pass until the edge knows which programs of a pool have died: others serve until then."""
    assert system.edge is not None
    tunnel = system.edge.find(ticket.host) if ticket.host else None
    if tunnel is None or not tunnel.is_pool:
        return
    connections = [program.manager._connection for program in system.programs if program.state == "running"]
    clients = [
        system.client_of(connection)
        for connection in connections
        if connection is not None and connection.welcome is not None
    ]
    sessions = [client.session for client in clients if client is not None]
    for _ in range(SERVED_WITHIN):
        if all(member.session in sessions or not _is_healthy(system, member) for member in tunnel.backends):
            return
        system.network.carry(system, 1.0)
    system.fail("a program that has died is called well", f"{ticket.host}")


def _is_healthy(system: ModelSystem, backend: Backend) -> bool:
    return system.loop.call(lambda: backend.is_healthy)


def _check_served(system: ModelSystem, visitor: Visitor, program: Program) -> None:
    """Let a visitor in, and see that bytes go both ways."""
    system.loop.call(system.enter, visitor)
    for _ in range(SERVED_WITHIN):
        system.network.carry(system, 1.0)
        if visitor.origin is not None:
            break
    else:
        if not visitor.excuse:
            system.fail("a visitor who is not served", f"{visitor}, {program}")
        return
    system.loop.call(visitor.peer.send, 10)
    system.loop.call(visitor.origin.send, 10)
    system.network.carry(system, 1.0)
    if (visitor.peer.received, visitor.origin.received) != (10, 10):
        system.fail("a visitor who is not served", f"{visitor}, {program}")


def _left_in(session: Session, where: str) -> list[str]:
    found = []
    for name, value in (
        ("streams", session.stream_count),
        ("numbers never seen", session.skipped_numbers),
        ("retained bytes", session.retained_bytes),
        ("window bytes", session.window_pool.used),
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


def _left(system: ModelSystem) -> list[str]:
    """Return what is left although no visitor is there any more."""
    found = []
    for program in system.programs:
        if program.session is not None and program.state == "running":
            found += _left_in(program.session, f"{program}")
        if program.manager.visitors.active_count:
            found.append(f"{program}: {program.manager.visitors.active_count} visits")
    for edge in system.edges:
        for session in edge.sessions():
            found += _left_in(session, f"edge {edge.number} ({edge.state})")
        inside = edge.visitors - sum(not visitor.is_over and visitor.edge is edge and visitor.is_in
                                     for visitor in system.visitors)  # fmt: skip
        if inside or edge.visitor_log.active:
            found.append(f"edge {edge.number}: {inside} visitors inside")
    found += [f"a dial of {dial.program}" for dial in system.dials]
    return found


def _end(system: ModelSystem) -> None:
    """End programs and edges; no task and no timer may stay."""
    for program in system.programs:
        if program.state == "running":
            system.loop.call(program.close)
    system.network.carry(system, 2.0)
    for edge in system.edges:
        if edge.state == "serving":
            system.loop.call(edge.leave)
    system.network.carry(system, 30.0)
    tasks = [task for task in asyncio.all_tasks(system.loop) if not task.done()]
    if tasks:
        system.fail("tasks that stay", f"{tasks}")
    if left := system.network.left() + [f"a listening socket of port {port}" for port in system.ports.taken()]:
        system.fail("something that stays in the network", f"{left}")
    timers = system.loop.timers
    if timers:
        system.fail("timers that stay", f"{timers}")
    for edge in system.edges:
        if edge.tunnel_count or edge.visitors or len(edge.services.sessions):
            system.fail("something that stays at an edge", f"{list(edge.services.registry)}, {edge.visitors}")
