"""Tests of the bytes that a sender keeps until they are credited."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quictunnel.wire.send_buffer import SendBuffer


class ReplayMachine(RuleBasedStateMachine):
    """Against the obvious model: one byte string and two offsets."""

    def __init__(self):
        super().__init__()
        self.buffer = SendBuffer()
        self.model = b""
        self.sent = 0
        self.base = 0

    @rule(chunk=st.binary(min_size=1, max_size=20))
    def append(self, chunk):
        self.buffer.append(chunk)
        self.model += chunk

    @precondition(lambda self: self.buffer.next_chunk is not None)
    @rule(data=st.data())
    def send(self, data):
        chunk = bytes(self.buffer.next_chunk)
        assert self.model[self.sent : self.sent + len(chunk)] == chunk
        size = data.draw(st.integers(0, len(chunk)))
        self.buffer.mark_sent(size)
        self.sent += size

    @rule(data=st.data())
    def credit(self, data):
        self.base = data.draw(st.integers(self.base, self.sent))
        self.buffer.credit(self.base)

    @rule(data=st.data())
    def rewind(self, data):
        self.sent = data.draw(st.integers(self.base, self.sent))
        self.buffer.rewind(self.sent)

    @rule()
    def drain(self):
        """From wherever it is, what comes out is what went in."""
        out = b""
        while (chunk := self.buffer.next_chunk) is not None:
            out += bytes(chunk)
            self.buffer.mark_sent(len(chunk))
        assert out == self.model[self.sent :]
        self.sent = len(self.model)

    @invariant()
    def offsets_agree(self):
        assert (self.buffer.base, self.buffer.sent, self.buffer.end) == (self.base, self.sent, len(self.model))
        assert self.buffer.size == len(self.model) - self.base


TestReplayMachine = ReplayMachine.TestCase


def test_clearing_forgets_everything():
    replay = SendBuffer()
    replay.append(b"abc")
    replay.mark_sent(2)
    replay.clear()
    assert replay.next_chunk is None
