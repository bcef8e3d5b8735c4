"""Which visitors a tunnel lets in."""

from __future__ import annotations

import pytest

from edge_server.visitors.filter import Filter


@pytest.mark.parametrize(
    ("allow", "deny", "host", "admitted"),
    [
        ([], [], "203.0.113.9", True),
        ([], [], "", True),
        (["203.0.113.0/24"], [], "203.0.113.9", True),
        (["203.0.113.0/24"], [], "203.0.114.9", False),
        (["203.0.113.0/24"], [], "::ffff:203.0.113.9", True),
        (["203.0.113.0/24"], [], "2001:db8::1", False),
        (["203.0.113.0/24"], [], "", False),
        (["203.0.113.0/24"], ["203.0.113.9/32"], "203.0.113.9", False),
        (["203.0.113.0/24"], ["203.0.113.9/32"], "203.0.113.8", True),
        ([], ["203.0.113.0/24"], "203.0.113.9", False),
        ([], ["203.0.113.0/24"], "::ffff:203.0.113.9", False),
        ([], ["203.0.113.0/24"], "198.51.100.1", True),
        ([], ["203.0.113.0/24"], "not an address", False),
        (["fe80::/10"], [], "fe80::1%eth0", True),
        (["2001:db8::/32", "::1/128"], [], "::1", True),
    ],
)
def test_admits(allow: list[str], deny: list[str], host: str, admitted: bool):
    assert Filter(allow, deny).admits(host) is admitted


@pytest.mark.parametrize("network", ["", "203.0.113.9/24", "203.0.113.0/33", "example.com", "203.0.113.0-9"])
def test_what_is_no_network(network: str):
    with pytest.raises(ValueError, match=r"network|address|netmask|Octet|octet|host bits|IPv"):
        Filter([], [network])
