"""Text of the other side holds nothing that a terminal obeys, whichever message carries it."""

from __future__ import annotations

import unicodedata
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.inspect import IntType, StrType, StructType, type_info

from quictunnel.errors import ProtocolError
from quictunnel.wire import messages, preface
from quictunnel.wire.messages import AnyMessage, Bound, Hello, Message, is_host

TYPES = tuple(type_info(AnyMessage).types)
NOT_SHOWN = frozenset({(Hello, "token")})
"""Compared, and nothing else."""
TEXTS = [
    (struct.cls, field.name)
    for struct in TYPES
    for field in struct.fields
    if isinstance(field.type, StrType) and (struct.cls, field.name) not in NOT_SHOWN
]
UGLY = "\x00\x07\x1b\x7f\x9b\u200b\u202e\u2066\u2028\ufeff\r\n\ud7ff"


def is_plain(text: str) -> bool:
    """Return True if a terminal shows it and does nothing else: no control character of either set, nothing that
    changes the direction, no other space, no character that is shown as nothing."""
    return text.isprintable() and not any(unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp") for c in text)


def valid_values(struct: type[Message]) -> dict[str, Any]:
    """Values that a message of this type may have."""
    made: dict[str, Any] = {}
    info = type_info(struct)
    assert isinstance(info, StructType)
    for field in info.fields:
        match field.type:
            case IntType(ge=ge):
                made[field.encode_name] = ge or 0
            case StrType():
                made[field.encode_name] = "host"
            case other:
                made[field.encode_name] = {"BytesType": b"", "BoolType": False, "ListType": []}.get(
                    type(other).__name__, 1
                )
    return made


def decoded_text(struct: type[Message], name: str, text: str) -> str | None:
    """Return a message's text after encoding and decoding; None if it is refused."""
    try:
        message = messages.decode(messages.encode(struct(**valid_values(struct) | {name: text})))
    except ProtocolError:
        return None
    value: str = getattr(message, name)
    return value


ANY_TEXT = st.text(st.one_of(st.sampled_from(UGLY), st.characters(exclude_categories=["Cs"])), max_size=60)


def test_there_are_texts_to_look_at():
    assert {(Bound, "host"), (Bound, "unencrypted_host")} < set(TEXTS)
    assert len(TEXTS) >= 6


@pytest.mark.parametrize(("struct", "name"), TEXTS, ids=lambda value: getattr(value, "__name__", value))
@given(text=ANY_TEXT)
@settings(deadline=None, max_examples=60)
def test_accepted_text_is_plain(struct, name, text):
    taken = decoded_text(struct, name, text)
    assert taken is None or (taken == text and is_plain(taken))
    for ugly in UGLY:
        assert decoded_text(struct, name, f"a{ugly}b") is None
        assert decoded_text(struct, name, f"host{ugly}") is None, "at the end, where $ would let a line break pass"


@given(ANY_TEXT)
@settings(deadline=None)
def test_the_address_of_a_visitor_is_plain(text):
    try:
        found = preface.PrefaceReader().feed(preface.encode_preface(preface.Preface(0, 1, True, text[:40], 1)))
    except ProtocolError:
        return
    assert found is not None
    assert is_plain(found[0].host)


def test_the_lists_of_networks_are_plain():
    for ugly in UGLY:
        for name in ("allow", "deny"):
            assert decoded_text(messages.Bind, name, [f"10.0.0.0/8{ugly}"]) is None
    assert decoded_text(messages.Bind, "allow", ["10.0.0.0/8", "2001:db8::/32"]) == ["10.0.0.0/8", "2001:db8::/32"]


@pytest.mark.parametrize(
    "host",
    ["a", "my-app.tunnel.example.com", "xn--bcher-kva.example", "my_service", "127.0.0.1", "::1", "2001:db8::1",
     "fe80::1%eth0", "a.example.", "x" * 63 + ".example"],
)  # fmt: skip
def test_hosts(host):
    assert is_host(host)
    assert decoded_text(Bound, "host", host) == host


@pytest.mark.parametrize(
    "host",
    ["-oProxyCommand=x", "a b", "a/b", "a@b", "a;reboot", "$(reboot)", "bücher.example", "a..b", ".a", "a-.b",
     "x" * 64, "[::1]", "a:443#", "a\n"],
)  # fmt: skip
def test_malformed_host_is_refused(host):
    assert not is_host(host)
    assert decoded_text(Bound, "host", host) is None


def test_the_library_matches_from_end_to_end():
    """A pattern of msgspec is searched for; ours are anchored."""
    assert all(
        isinstance(field.type, StrType) and (field.type.pattern or "").endswith(r"\Z")
        for struct in TYPES
        for field in struct.fields
        if (struct.cls, field.name) in TEXTS
    )
    assert msgspec.__version__
