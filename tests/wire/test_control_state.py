"""Tests of the table of control messages: which side may send which message in which state."""

import itertools

import pytest

from quictunnel.errors import ProtocolError
from quictunnel.wire.control_state import TRANSITIONS, ControlStateMachine, Phase, Side
from quictunnel.wire.messages import AnyMessage
from tests.wire.test_messages import EXAMPLES

BY_TYPE = {type(message): message for message in EXAMPLES}


def at(phase: Phase, side: Side) -> ControlStateMachine:
    dialogue = ControlStateMachine(side)
    dialogue.phase = phase
    return dialogue


@pytest.mark.parametrize(
    ("phase", "speaker", "kind"), TRANSITIONS, ids=lambda v: getattr(v, "name", getattr(v, "__name__", ""))
)
def test_allowed_messages_move_both_ends_alike(phase, speaker, kind):
    says, hears = at(phase, speaker), at(phase, speaker.other)
    says.sent(BY_TYPE[kind])
    hears.received(BY_TYPE[kind])
    assert says.phase is hears.phase is TRANSITIONS[phase, speaker, kind]


def test_other_messages_are_refused():
    everything = itertools.product(Phase, Side, AnyMessage.__args__)
    refused = [row for row in everything if row not in TRANSITIONS]
    assert len(refused) > len(TRANSITIONS)
    for phase, speaker, kind in refused:
        with pytest.raises(ProtocolError, match="unexpected"):
            at(phase, speaker.other).received(BY_TYPE[kind])
        with pytest.raises(AssertionError):
            at(phase, speaker).sent(BY_TYPE[kind])


def test_every_message_has_its_moment():
    assert {kind for _, _, kind in TRANSITIONS} == set(AnyMessage.__args__)


def test_before_the_welcome_a_client_may_only_say_hello():
    allowed = {
        kind.__name__
        for phase, side, kind in TRANSITIONS
        if side is Side.CLIENT and phase in (Phase.SILENT, Phase.GREETED)
    }
    assert allowed == {"Hello"}
