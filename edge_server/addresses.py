"""Addresses of peers, as the system tells them, and what counts as one of them."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

PREFIX_V6: Final = 64
"""What one subscriber has of IPv6."""
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
    address = parsed(host)
    if address is None:
        return ""
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, PREFIX_V6), strict=False))
