"""Addresses of peers, as the system tells them, and what counts as one of them."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

PREFIX_V6: Final = 64
"""What one subscriber has of IPv6."""
NETWORK_V4: Final = 24
"""The smallest network of IPv4 that is routed on its own, so the largest that many strangers have all of."""
NETWORK_V6: Final = 48
"""The largest network of IPv6 that one site is given (RFC 6177), and that tunnel brokers give to anybody."""
KEPT: Final = 4096
"""Addresses whose text has been understood before; busy ones come again."""


@lru_cache(KEPT)
def parsed(host: str) -> IPv4Address | IPv6Address | None:
    """An address as ``getpeername`` tells it: with an IPv6 zone, or IPv4 within IPv6 (RFC 4291 section 2.5.5.2),
    which is the IPv4 address that it means. None for what is none."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@lru_cache(KEPT)
def neighbourhood(host: str) -> str:
    """What counts as one peer: an IPv4 address, or a /64 of IPv6; empty for what is no address."""
    return _prefix(host, 32, PREFIX_V6)


@lru_cache(KEPT)
def network_of(host: str) -> str:
    """Return the network of a peer, of which one stranger may have all addresses: a /24 of IPv4, a /48 of IPv6;
    empty for what is no address."""
    return _prefix(host, NETWORK_V4, NETWORK_V6)


def _prefix(host: str, length_v4: int, length_v6: int) -> str:
    address = parsed(host)
    if address is None:
        return ""
    if isinstance(address, IPv4Address):
        return str(address) if length_v4 == address.max_prefixlen else str(ip_network((address, length_v4), False))
    return str(ip_network((address, length_v6), False))
