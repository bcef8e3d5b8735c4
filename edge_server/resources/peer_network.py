"""Peer addresses as reported by the system, and the prefixes that identify a peer or its network."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

SUBSCRIBER_V6: Final = 64
"""Prefix length of one IPv6 subscriber."""
NETWORK_V4: Final = 24
"""Prefix length of the smallest IPv4 network that is routed on its own, so that one attacker may hold all of
it."""
NETWORK_V6: Final = 48
"""Prefix length of the largest IPv6 network that is assigned to one site (RFC 6177), and that tunnel brokers give
to anyone."""
CACHE_SIZE: Final = 4096
"""Cached addresses; active ones recur."""


@lru_cache(CACHE_SIZE)
def parse_peer(host: str) -> IPv4Address | IPv6Address | None:
    """Return an address as reported by ``getpeername``; None if it is not an address.

    An IPv6 zone is ignored, and IPv4 within IPv6 (RFC 4291 section 2.5.5.2) becomes the IPv4 address.
    """
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(CACHE_SIZE)
def peer_prefix(host: str) -> str:
    """Return the prefix that identifies one peer: an IPv4 address or an IPv6 /64; empty if ``host`` is not an
    address."""
    return _prefix(host, 32, SUBSCRIBER_V6)


@lru_cache(CACHE_SIZE)
def network_prefix(host: str) -> str:
    """Return the network of a peer, all of which one attacker may hold: an IPv4 /24 or an IPv6 /48; empty if
    ``host`` is not an address."""
    return _prefix(host, NETWORK_V4, NETWORK_V6)


def _prefix(host: str, length_v4: int, length_v6: int) -> str:
    address = parse_peer(host)
    if address is None:
        return ""
    if isinstance(address, IPv4Address):
        return str(address) if length_v4 == address.max_prefixlen else str(ip_network((address, length_v4), False))
    return str(ip_network((address, length_v6), False))
