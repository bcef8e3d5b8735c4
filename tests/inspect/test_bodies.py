"""Tests of where bodies end: as h11 says, for any chunks in any split."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quictunnel.inspect.bodies import Body, BodyError, Chunked, Length, UntilClose

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def split(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


def read(body: Body, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The content, and what came behind it."""
    content, rest = bytearray(), bytearray()
    for piece in pieces:
        used = 0 if body.is_done else body.feed(memoryview(piece), content.extend)
        rest += piece[used:]
    return bytes(content), bytes(rest)


def read_by_h11(data: bytes) -> tuple[bytes, bytes] | None:
    """The same, or None where it is not framed."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(HEAD + data)
    content = bytearray()
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                return bytes(content), connection.trailing_data[0]
            elif event is h11.NEED_DATA:
                return bytes(content), b""
    except h11.RemoteProtocolError:
        return None


@st.composite
def chunked(draw: st.DrawFn) -> bytes:
    chunks = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    written = [
        b"%x%s\r\n%s\r\n" % (len(each), draw(st.sampled_from([b"", b";a=b", b" "])), each) for each in chunks
    ]
    trailer = draw(st.sampled_from([b"", b"A: b\r\n", b"A: b\r\nC: d\r\n"]))
    return b"".join(written) + b"0\r\n" + trailer + b"\r\n"


@given(chunked(), st.lists(st.integers(0, 20), max_size=20), st.binary(max_size=20))
def test_chunks_are_read_as_h11_reads_them(data: bytes, sizes: list[int], behind: bytes) -> None:
    assert read(Chunked(), split(data + behind, sizes)) == read_by_h11(data + behind)


@given(chunked(), st.integers(0, 200), st.binary(min_size=1, max_size=3), st.lists(st.integers(0, 20), max_size=5))
def test_invalid_chunks_never_yield_another_body(data: bytes, at: int, wrong: bytes, sizes: list[int]) -> None:
    """Our reader may accept more trailers than h11, which are not shown. The content is the same, or neither
    reads a body."""
    data = data[:at] + wrong + data[at:]
    expected = read_by_h11(data)
    try:
        content, _ = read(Chunked(), split(data, sizes))
    except BodyError:
        return
    if expected is not None:
        assert content == expected[0]


@given(st.integers(0, 100), st.lists(st.integers(0, 20), max_size=20))
def test_a_length(size: int, sizes: list[int]) -> None:
    data = bytes(range(120))
    assert read(Length(size), split(data, sizes)) == (data[:size], data[size:])
    assert read(UntilClose(), split(data, sizes)) == (data, b"")


def test_passing_over_what_is_certainly_content() -> None:
    body: Body = Length(10)
    assert [body.skip(size) for size in (11, 4, 7, 6)] == [False, True, False, True]
    assert body.is_done
    body = Chunked()
    assert not body.skip(1)
    body.feed(memoryview(b"a\r\nxx"), bytes)
    assert [body.skip(size) for size in (8, 7, 1)] == [False, True, False]
    assert body.feed(memoryview(b"x\r\n0\r\n\r\n"), bytes) == 8
    assert body.is_done


@pytest.mark.parametrize("wrong", [b"x\r\n", b"\r\n", b"-1\r\n", b"1\r\nab\r\n", b"1" * 17 + b"\r\n"])
def test_no_chunks(wrong: bytes) -> None:
    with pytest.raises(BodyError):
        Chunked().feed(memoryview(wrong), bytes)
