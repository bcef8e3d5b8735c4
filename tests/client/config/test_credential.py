"""The credential: what one end encodes the other decodes, and every other text is refused with its reason."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ssl

import msgspec
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from quictunnel.config.credential import (
    MAX_ADDRESSES,
    MAX_LENGTH,
    MAX_TOKEN,
    Credential,
    decode,
    is_credential,
    pin_of,
)
from quictunnel.config.secret import Secret
from quictunnel.errors import ConfigError

TOKEN = "qt1.abcdefghijklmnop.0123456789012345678901234567890123456789012"  # of nobody
PLAIN = Credential(("edge.example.com:4433",), bytes(range(32)), Secret(TOKEN))

names = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]{1,10}){0,2}", fullmatch=True)
addresses = st.builds("{}:{}".format, names, st.integers(1, 65_535))
tokens = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=MAX_TOKEN)
credentials = st.builds(
    Credential,
    st.lists(addresses, min_size=1, max_size=MAX_ADDRESSES).map(tuple),
    st.one_of(st.just(b""), st.binary(min_size=32, max_size=32)),
    tokens.map(Secret),
)


def wrapped(content: object) -> str:
    """Return a credential with a valid checksum and any content."""
    body = msgspec.msgpack.encode(content)
    data = body + binascii.crc32(body).to_bytes(4, "big")
    return "qt1" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        decode(text)
    message = str(caught.value)
    assert message.isprintable(), "one line"
    assert TOKEN not in message
    assert len(text) < 12 or text[8:] not in message, "no part of a credential is shown"
    return message


@given(credentials)
def test_what_is_encoded_is_decoded(credential):
    text = credential.encode()
    assert len(text) <= MAX_LENGTH
    assert is_credential(text)
    assert decode(text) == credential


@given(credentials, st.data())
def test_a_cut_off_copy_is_recognised(credential, data):
    text = credential.encode()
    assert "cut off" in refusal(text[: data.draw(st.integers(3, len(text) - 1))])


@given(credentials, st.data())
def test_a_changed_character_is_recognised(credential, data):
    text = credential.encode()
    place = data.draw(st.integers(4, len(text) - 2))  # the last one may have bits that do not count
    other = data.draw(st.sampled_from("ABab01-_").filter(lambda each: each != text[place]))
    message = refusal(text[:place] + other + text[place + 1 :])
    assert "checksum is wrong" in message or "cut off" in message


@given(st.text(max_size=300))
def test_any_text_is_refused_in_one_line(text):
    refusal(text)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_one_line(data):
    refusal("qt1" + base64.urlsafe_b64encode(data).decode().rstrip("="))


def test_line_breaks_of_a_terminal_do_not_count():
    text = PLAIN.encode()
    assert decode(f"  {text[:70]}\r\n{text[70:90]} {text[90:]}\n") == PLAIN


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ("hello", "does not begin with qt1"),
        ("QT1" + PLAIN.encode()[3:], "does not begin with qt1"),
        (TOKEN, "is a token"),
        ("qt2" + PLAIN.encode()[3:], "has version qt2, and this quictunnel knows qt1: upgrade"),
        ("qt10k", "has version qt10"),
        (PLAIN.encode() + '"', "no credential has"),
        (PLAIN.encode() + "AAAA", "checksum is wrong"),
        (PLAIN.encode() + "=", "no credential has"),
        ("qt1", "cut off"),
        ("qt1k", "cut off"),
        ("qt1k" + "A" * MAX_LENGTH, f"longer than {MAX_LENGTH}"),
        ("qt1k" + "A" * 2 * MAX_LENGTH, f"longer than {MAX_LENGTH}"),
        (wrapped([[], b"", TOKEN]), "1 to 8 addresses, not 0"),
        (wrapped([["e:1"] * 9, b"", TOKEN]), "1 to 8 addresses, not 9"),
        (wrapped([["e"], b"", TOKEN]), "the port is missing"),
        (wrapped([["e:1"], b"short", TOKEN]), "5 bytes, not 32"),
        (wrapped([["e:1"], b"", ""]), "is empty"),
        (wrapped([["e:1"], b"", "to ken"]), "space"),
        (wrapped([["e:1"], b"", "t" * (MAX_TOKEN + 1)]), f"longer than {MAX_TOKEN}"),
        (wrapped([["e:1"], b""]), "checksum is wrong"),
        (wrapped({"token": TOKEN}), "checksum is wrong"),
    ],
)
def test_every_other_text_is_refused(text, why):
    assert why in refusal(text)


def test_the_longest_credential():
    longest = [f"{'a' * 60}.{'b' * 60}.{'c' * 60}.{number}.example.com:4433" for number in range(MAX_ADDRESSES)]
    with pytest.raises(ConfigError, match=f"more than {MAX_LENGTH}"):
        Credential(tuple(longest), bytes(32), Secret("t" * MAX_TOKEN)).encode()


def test_its_secret_is_not_shown():
    for text in (repr(PLAIN), str(PLAIN), f"{PLAIN}"):
        assert TOKEN not in text


def test_pin_of_an_authority():
    authority, other = trustme.CA().cert_pem.bytes(), trustme.CA().cert_pem.bytes()
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.decode())).digest()
    assert pin_of(authority) == pin_of(b"# text\n" + authority + other) == pin
    with pytest.raises(ValueError, match="not found"):
        pin_of(b"")


def test_format_is_the_documented_one():
    """The bytes, one by one, since other programs may write them."""
    data = base64.urlsafe_b64decode(PLAIN.encode()[3:] + "=" * (-len(PLAIN.encode()[3:]) % 4))
    address, token = PLAIN.addresses[0].encode(), TOKEN.encode()
    body = b"\x93\x91" + bytes((0xA0 + len(address),)) + address + b"\xc4\x20" + PLAIN.pin + b"\xd9"
    body += bytes((len(token),)) + token
    assert data == body + binascii.crc32(body).to_bytes(4, "big")
