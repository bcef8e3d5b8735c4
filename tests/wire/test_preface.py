"""The first bytes of a data stream."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quictunnel.errors import ProtocolError
from quictunnel.wire.preface import MAX_PREFACE, Preface, PrefaceReader, encode_preface

EXAMPLE = Preface(stream=7, lease=1, tls=True, host="2001:db8::1", port=50000)


@given(st.binary(max_size=50), st.data())
def test_preface_may_be_split_and_returns_the_rest(rest, data):
    stream = encode_preface(EXAMPLE) + rest
    cut = data.draw(st.integers(0, len(stream)))
    reader = PrefaceReader()
    parsed = reader.feed(stream[:cut])
    if parsed is None:
        parsed = reader.feed(stream[cut:])
        assert parsed == (EXAMPLE, rest)
    else:
        preface, begun = parsed
        assert preface == EXAMPLE
        assert begun + stream[cut:] == rest


def test_the_largest_fits():
    largest = Preface(stream=(1 << 62) - 1, lease=(1 << 32) - 1, tls=True, host="x" * 64, port=65535)
    assert len(encode_preface(largest)) <= MAX_PREFACE


@pytest.mark.parametrize(
    "raw",
    [
        [7, 1, True, "::1"],
        [7, 1, True, "::1", 1, 2],
        [7, 1, True, "::1", 70000],
        [-1, 1, True, "::1", 1],
        [7, 1, "yes", "::1", 1],
        [7, 1, True, "x" * 65, 1],
        {},
    ],
    ids=repr,
)
def test_malformed_ones_are_refused(raw):
    payload = msgspec.msgpack.encode(raw)
    with pytest.raises(ProtocolError):
        PrefaceReader().feed(bytes((len(payload),)) + payload)


def test_an_empty_one_is_refused():
    with pytest.raises(ProtocolError):
        PrefaceReader().feed(b"\0")


@given(st.binary(max_size=600))
def test_random_bytes_raise_only_protocol_errors(data):
    try:
        parsed = PrefaceReader().feed(data)
    except ProtocolError:
        return
    assert parsed is not None or len(data) <= MAX_PREFACE
