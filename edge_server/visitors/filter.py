"""Which visitors a tunnel lets in, by their address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING

from edge_server.addresses import parsed

if TYPE_CHECKING:
    from collections.abc import Iterable


class Filter:
    """Networks to allow and to deny. Without any to allow, all are."""

    __slots__ = ("_allow", "_deny")

    def __init__(self, allow: Iterable[str], deny: Iterable[str]) -> None:
        """Raises ValueError for what is no network in CIDR notation."""
        self._allow = tuple(ip_network(each) for each in allow)
        self._deny = tuple(ip_network(each) for each in deny)

    @property
    def is_open(self) -> bool:
        """Whether it lets everybody in."""
        return not self._allow and not self._deny

    def admits(self, host: str) -> bool:
        """Whether a visitor from this address may come in. One whose address is not known may where all may."""
        if self.is_open:
            return True
        address = parsed(host)
        if address is None or _is_in(address, self._deny):
            return False
        return not self._allow or _is_in(address, self._allow)


def _is_in(address: IPv4Address | IPv6Address, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
