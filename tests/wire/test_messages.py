"""Control messages: what is accepted, and that nothing else ever raises anything but ProtocolError."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quictunnel.errors import ProtocolError
from quictunnel.wire import messages
from quictunnel.wire.codes import BindCode
from quictunnel.wire.framing import HEADER_SIZE, FrameReader, frame
from quictunnel.wire.messages import (
    MAX_CREDITS,
    MAX_MESSAGE,
    Bind,
    BindRefused,
    BindRefusedV3,
    BindV2,
    Bound,
    Credits,
    GoAway,
    Hello,
    ResumeState,
    StreamsAborted,
    Unbind,
    Unbound,
    Welcome,
    decode,
    encode,
)

EXAMPLES = [
    Hello(1, "secret", 65536, "test/1", b""),
    Welcome(1, 65536, 100, "edge/1", b"", False, 0, 1_700_000_000, 0),
    Bind(1, True, False, b"ticket"),
    BindV2(1, True, False, b"ticket", client_id=b"p" * 16, again=True),
    Bound(1, "abc.tunnel.localhost", 8443, "127.0.0.1", 20000, b"ticket"),
    BindRefused(1, BindCode.NO_PORT),
    BindRefusedV3(1, BindCode.NO_PORT, "no port is free"),
    Unbind(1),
    Unbound(1),
    Credits([(0, 10, 70000), (5, 0, 65536)]),
    GoAway(30),
    StreamsAborted([(0, 1), (7, 5)]),
    ResumeState([(0, 11, 10, 70000), (5, 0, 0, 65536)], True),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_message_survives_the_trip(message):
    assert decode(encode(message)) == message
    assert list(FrameReader().feed(frame(message))) == [message]


def test_the_examples_cover_every_message():
    assert {type(m) for m in EXAMPLES} == set(messages.AnyMessage.__args__)


@pytest.mark.parametrize(
    "raw",
    [
        [99, 1],  # unknown type
        [1, 1, "t", 65536, "x"],  # a field is missing
        [1, 1, "t", 65536, "x", b"s" * 33],  # a secret that is none
        [1, 1, "t", 65536, "x", b"", "extra"],
        [1, "1", "t", 65536, "x", b""],  # mistyped
        [1, 256, "t", 65536, "x", b""],
        [1, 1, "t" * 513, 65536, "x", b""],
        [1, 1, "t", 1, "x", b""],  # a window below the least
        [1, 1, "t", 1 << 40, "x", b""],
        [3, -1, True, False, b""],
        [3, 1, 1, 0, b""],  # a number is not a truth value
        [3, 1, True, False, b"x" * 1025],
        [5, 1, 200],  # unknown code
        [8, []],
        [8, [[0, 0]]],
        [8, [[0, 1 << 62, 0]]],
        [8, [[0, -1, 0]]],
        [9, 3601],
        [10, [[0, 0, 0]], True],
        [10, [[0, 0, 0, 0]] * 257, True],
        [10, [], 1],
        {"type": 1},
        "Hello",
        None,
    ],
    ids=repr,
)
def test_malformed_messages_are_refused(raw):
    with pytest.raises(ProtocolError):
        decode(msgspec.msgpack.encode(raw))


def test_the_largest_credits_fit_a_frame_and_one_more_entry_is_refused():
    entry = (messages.MAX_OFFSET, messages.MAX_OFFSET, messages.MAX_OFFSET)
    largest = Credits([entry] * MAX_CREDITS)
    assert list(FrameReader().feed(frame(largest))) == [largest]
    with pytest.raises(ProtocolError):
        decode(msgspec.msgpack.encode([8, [entry] * (MAX_CREDITS + 1)]))


def test_the_largest_standing_fits_a_frame():
    largest = ResumeState([(messages.MAX_OFFSET,) * 4] * messages.MAX_RESUME_ENTRIES, True)
    assert list(FrameReader().feed(frame(largest))) == [largest]


def test_errors_never_quote_the_token():
    bad = msgspec.msgpack.encode([1, 1, "hunter2", "not a window", "x"])
    with pytest.raises(ProtocolError) as caught:
        decode(bad)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("size", [0, MAX_MESSAGE + 1, 1 << 31, (1 << 32) - 1])
def test_frame_length_out_of_bounds_is_refused_early(size):
    reader = FrameReader()
    with pytest.raises(ProtocolError, match="control frame of"):
        list(reader.feed(size.to_bytes(HEADER_SIZE, "big")))


@given(st.lists(st.sampled_from(EXAMPLES), max_size=6), st.data())
def test_frames_may_be_split_anywhere(sequence, data):
    stream = b"".join(frame(message) for message in sequence)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = FrameReader()
    seen = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        seen += reader.feed(stream[start:end])
    assert seen == sequence
    assert reader.pending == 0


@given(st.binary(max_size=2048))
def test_random_bytes_raise_only_protocol_errors(data):
    reader = FrameReader()
    try:
        for _ in reader.feed(data):
            pass
    except ProtocolError:
        return
    assert reader.pending <= HEADER_SIZE + MAX_MESSAGE


@given(st.binary(max_size=200))
def test_random_payloads_raise_only_protocol_errors(data):
    try:
        message = decode(data)
    except ProtocolError:
        return
    assert decode(encode(message)) == message
