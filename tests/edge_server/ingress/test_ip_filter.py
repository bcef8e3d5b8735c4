"""Tests of the addresses that a tunnel admits."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest

from edge_server.ingress.ip_filter import IpFilter


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
    assert IpFilter(allow, deny).admits(host) is admitted


@pytest.mark.parametrize("network", ["", "203.0.113.9/24", "203.0.113.0/33", "example.com", "203.0.113.0-9"])
def test_malformed_network_is_refused(network: str):
    with pytest.raises(ValueError, match=r"network|address|netmask|Octet|octet|host bits|IPv"):
        IpFilter([], [network])


def test_a_filter_of_many_networks_says_what_each_of_them_says():
    chance = random.Random(15)
    for _ in range(200):
        bits = chance.choice((32, 128))
        near = chance.getrandbits(bits)
        networks, hosts = [], []
        for _ in range(chance.randrange(1, 12)):
            length = chance.randrange(bits - 16, bits + 1)
            number = near ^ chance.getrandbits(12)
            networks.append(str(ip_network((number, length), strict=False)))
            hosts.append(str(ip_network((near ^ chance.getrandbits(12), bits))).partition("/")[0])
        allowed, denied = IpFilter(networks, []), IpFilter([], networks)
        for host in hosts:
            is_in = any(ip_address(host) in ip_network(each) for each in networks)
            assert allowed.admits(host) is is_in
            assert denied.admits(host) is not is_in
