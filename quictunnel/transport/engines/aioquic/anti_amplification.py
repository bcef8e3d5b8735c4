"""Anti-amplification limit for unvalidated addresses (RFC 9000 section 8).

aioquic and the sender count for each path, so that they build short enough packets. This is the last check of
every datagram from any part of a connection: at most three bytes go to an address for each byte that came from it.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address
    from quictunnel.transport.engines.aioquic.connection_base import ConnectionBase

FACTOR: Final = 3
"""Bytes that may be sent to an address for each byte received from it."""
MAX_ADDRESSES: Final = 8
"""Addresses to track. An address that is evicted gets nothing until more bytes arrive from it, so only a response
is lost."""


class AmplificationLimit:
    """Unvalidated addresses of one connection, with the bytes that may be sent to each."""

    def __init__(self, connection: ConnectionBase, validated: Address | None) -> None:
        """Create the limit of a connection. ``validated`` is the address that answered a Retry."""
        self._connection = connection
        self._validated = validated
        self._left: OrderedDict[Address, int] = OrderedDict()

    def heard(self, address: Address, size: int) -> None:
        """Count received bytes of an address, authentic or not."""
        if self._is_proven(address):
            return
        self._left[address] = self._left.get(address, 0) + FACTOR * size
        if len(self._left) > MAX_ADDRESSES:
            # The connection's current address is never evicted.
            kept = address, self._connection.get_peer_address()
            del self._left[next(known for known in self._left if known not in kept)]

    def allows(self, address: Address, size: int) -> bool:
        """Return True if a datagram may be sent to an address, and count it."""
        if self._is_proven(address):
            self._left.pop(address, None)
            return True
        left = self._left.get(address, 0)
        if left < size:
            return False
        self._left[address] = left - size
        return True

    def filter(self, sent: list[tuple[bytes, Address]]) -> list[tuple[bytes, Address]]:
        """Return the datagrams that may be sent."""
        if all(path.is_validated for path in self._connection._network_paths):
            return sent
        return [(datagram, address) for datagram, address in sent if self.allows(address, len(datagram))]

    def _is_proven(self, address: Address) -> bool:
        connection = self._connection
        paths = connection._network_paths
        if connection._is_client or (not paths and address == self._validated):
            return True
        return any(path.is_validated and path.addr == address for path in paths)


def is_public(host: str) -> bool:
    """Return True for a globally reachable address. Raises ValueError for text that is no address."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # a dual-stack socket reports IPv4 peers like this
    return address.is_global
