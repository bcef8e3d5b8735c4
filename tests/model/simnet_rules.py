"""Rules for links of the simulated network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.model import rules as common
from tests.model.invariants import check_rest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.rules import Rule, Rules
    from tests.model.system import ModelSystem

SIMNET: Final[Rules] = {}
MOMENTS: Final = (0.001, 0.005, 0.012, 0.02, 0.026, 0.04)
"""Seconds: parts of a round trip."""
MOMENT: Final = 0.004
MOST_MOMENTS: Final = 2_000
"""In which a link that carries nothing is found to be sick, and another is dialled beside it."""
MEANWHILE: Final = (
    common.come, common.come, common.reset_while_resuming, common.reset_while_resuming, common.end, common.speak,
    common.take_over, common.accept, common.withdraw_while_resuming, None,
)  # fmt: skip
"""Rules that apply in the midst of a resume."""


def rule(weight: int) -> Callable[[Rule], Rule]:
    """Add a function to the rules for the simulated network."""
    return common.rule(weight, SIMNET)


def _sockets(system: ModelSystem, *, held_up: bool) -> list[Any]:
    return [socket for socket in system.network.client_sockets() if socket.up.conditions.black_hole is held_up]


def _swallow(socket: Any, *, on: bool) -> None:
    socket.up.conditions.black_hole = socket.down.conditions.black_hole = on


@rule(60)
def pass_a_moment(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A part of a round trip passes."""
    system.loop.advance(MOMENTS[a % len(MOMENTS)])
    return True


@rule(3)
def pause_link(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Nothing arrives on a link for the time being."""
    sockets = _sockets(system, held_up=False)
    if not sockets:
        return False
    _swallow(sockets[a % len(sockets)], on=True)
    system.network.paused.append(sockets[a % len(sockets)])
    return True


@rule(4)
def go_on_link(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A link that paused carries again."""
    paused = [socket for socket in system.network.paused if socket in _sockets(system, held_up=True)]
    if not paused:
        return False
    _swallow(paused[a % len(paused)], on=False)
    system.reach("a link came back")
    return True


@rule(3)
def cut_link(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A link carries nothing any more, and nobody is told."""
    sockets = _sockets(system, held_up=False)
    if not sockets:
        return False
    _swallow(sockets[a % len(sockets)], on=True)
    system.reach("a link was cut")
    return True


@rule(2)
def disturb_link(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A link loses packets, or lets them overtake each other, from now on; or does so no more."""
    sockets = _sockets(system, held_up=False)
    if not sockets:
        return False
    socket = sockets[a % len(sockets)]
    for conditions in (socket.up.conditions, socket.down.conditions):
        conditions.loss = (0.0, 0.0, 0.02, 0.1)[b % 4]
        conditions.jitter = (0.0, 0.01, 0.05)[c % 3]
        conditions.rate = (None, 1e6, 5e4)[b % 3]
        conditions.duplicate = (0.0, 0.05)[c % 2]
    return True


@rule(1)
def rebind_nat(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A router gives a client another port, and nobody is told."""
    sockets = _sockets(system, held_up=False)
    if not sockets:
        return False
    system.reach("a router changed a port")
    sockets[a % len(sockets)].move(system.network.fresh_address())
    return True


@rule(3)
def calm(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """Some time passes; sessions on whose link nothing is under way know the same streams on both sides."""
    system.loop.advance((0.7, 2.0)[a % 2])
    check_rest(system)
    return True


def _resuming(system: ModelSystem) -> bool:
    sessions = [session for edge in system.edges for session in edge.sessions()]
    sessions += [program.session for program in system.programs if program.session is not None]
    return any(session.is_awaiting_resume_state for session in sessions)


@rule(4)
def resume_halfway(system: ModelSystem, a: int, b: int, c: int) -> bool:
    """A link carries nothing any more, and a client has just gone on with another: something happens before both
    sides know how they stand."""
    sockets = _sockets(system, held_up=False)
    if not sockets:
        return False
    _swallow(sockets[a % len(sockets)], on=True)
    system.reach("a link was cut")
    for _ in range(MOST_MOMENTS):
        if _resuming(system):
            break
        system.loop.advance(MOMENT)
    else:
        return True
    system.reach("within the round trip of a resume")
    meanwhile = MEANWHILE[b % len(MEANWHILE)]
    if meanwhile is not None:
        meanwhile(system, c, b // len(MEANWHILE), a)
    return True
