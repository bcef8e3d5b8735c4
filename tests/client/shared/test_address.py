"""host:port, strictly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quictunnel.errors import ConfigError
from quictunnel.shared.address import MAX_SHOWN, format_address, on_this_machine, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("edge.example.com:4433", ("edge.example.com", 4433)),
        ("edge.example.com.:1", ("edge.example.com.", 1)),
        ("localhost:65535", ("localhost", 65535)),
        ("edge_1:4433", ("edge_1", 4433)),
        ("127.0.0.1:4433", ("127.0.0.1", 4433)),
        ("[::1]:4433", ("::1", 4433)),
        ("[fe80::1%eth0]:4433", ("fe80::1%eth0", 4433)),
    ],
)
def test_good_addresses_and_back(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text, what="--quic") == address
    assert format_address(*address) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "port is missing"),
        ("edge.example.com", "port is missing"),
        ("[::1]", "port is missing"),
        ("[::1:4433", "port is missing"),
        (":4433", "host is missing"),
        ("edge:", "port should be"),
        ("edge:0", "from 1 to 65535"),
        ("edge:65536", "port should be"),
        ("edge:-1", "port should be"),
        ("edge:+1", "port should be"),
        ("edge:4 433", "port should be"),
        ("edge:٤٤", "port should be"),
        ("edge:0x10", "port should be"),
        ("edge:99999999999999999999", "port should be"),
        ("::1:4433", "needs brackets"),
        ("[nonsense]:4433", "not an IPv6"),
        ("[]:4433", "not an IPv6"),
        ("[127.0.0.1]:4433", "not an IPv6"),
        ("300.1.1.1:4433", "not an IPv4"),
        ("127.1:4433", "not an IPv4"),
        ("https://edge:4433", "scheme"),
        ("user@edge:4433", "not a host name"),
        ("edge/path:4433", "not a host name"),
        (" edge:4433", "not a host name"),
        ("edge..com:4433", "not a host name"),
        ("-edge:4433", "not a host name"),
        ("münchen.de:4433", "xn--"),
        ("a" * 64 + ":4433", "not a host name"),
        (".".join(["a" * 60] * 5) + ":4433", "not a host name"),
        ("edge\n:4433", "not a host name"),
    ],
)
def test_bad_addresses_are_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        parse_address(text, what="QUICTUNNEL_EDGE")
    message = str(caught.value)
    assert message.startswith("QUICTUNNEL_EDGE should be host:port")
    assert "\n" not in message


def test_port_0_only_where_any_port_will_do() -> None:
    assert parse_address("127.0.0.1:0", what="--quic", any_port=True) == ("127.0.0.1", 0)


@given(st.text())
def test_any_text_gives_an_address_or_one_bounded_line(text: str) -> None:
    refusal = ""
    try:
        host, port = parse_address(text, what="X")
    except ConfigError as error:
        refusal = str(error)
    if refusal:
        assert refusal.isprintable()
        assert len(refusal) < 250 + 10 * MAX_SHOWN  # a character is escaped to ten at most
    else:
        assert host
        assert 1 <= port <= 65535


@pytest.mark.parametrize(
    ("bound", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.1", "192.0.2.1"), ("example.com", "example.com")],
)
def test_all_interfaces_are_reached_by_loopback(bound, reached):
    assert on_this_machine(bound) == reached
