"""Limits for addresses that have not shown that they receive (RFC 9000 section 8).

aioquic and the sender count for each path, so that what they build is short enough. This is the last look at every
datagram, whichever part of a connection built it: each byte that goes to an address was paid for by a third of one
that came from there, whatever else is remembered of it.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from quictunnel.transport.engine import Address
    from quictunnel.transport.engines.aioquic.quic_connection import TunnelConnection

FACTOR: Final = 3
"""As many times what came from an address may go to it."""
MAX_ADDRESSES: Final = 8
"""Addresses that are told apart. What may be sent to one is earned by what came from it, so nothing is lost but an
answer when one is forgotten for another: it gets nothing until more comes from there."""


class Reach:
    """The unproven addresses of one connection, and how many bytes may go to each."""

    def __init__(self, connection: TunnelConnection, validated: Address | None) -> None:
        """``validated``: the address that answered a Retry."""
        self._connection = connection
        self._validated = validated
        self._left: OrderedDict[Address, int] = OrderedDict()

    def heard(self, address: Address, size: int) -> None:
        """Datagrams came, authentic or not: so much more may go back."""
        if self._is_proven(address):
            return
        self._left[address] = self._left.get(address, 0) + FACTOR * size
        if len(self._left) > MAX_ADDRESSES:
            # Where the connection sends to is not forgotten for others.
            kept = address, self._connection.get_peer_address()
            del self._left[next(known for known in self._left if known not in kept)]

    def allows(self, address: Address, size: int) -> bool:
        """Return True if a datagram may go there, and count it. Others are dropped, as the network might."""
        if self._is_proven(address):
            self._left.pop(address, None)
            return True
        left = self._left.get(address, 0)
        if left < size:
            return False
        self._left[address] = left - size
        return True

    def filter(self, sent: list[tuple[bytes, Address]]) -> list[tuple[bytes, Address]]:
        """Return the datagrams that may go."""
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
    """Return True for an address that can be anywhere. Raises ValueError for text that is no address."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # how a dual-stack socket names its IPv4 peers
    return address.is_global
