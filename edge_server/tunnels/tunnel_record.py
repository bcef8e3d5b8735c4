"""A tunnel as one edge tells the next: through a hot restart, or through the snapshot of held names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edge_server.tunnels.options import TunnelOptions

if TYPE_CHECKING:
    from typing import Self

    from edge_server.tunnels.tunnel import Tunnel


class TunnelRecord(msgspec.Struct, array_like=True, frozen=True):
    """A tunnel whose client will come back and ask for it again."""

    name: str
    owner: str
    generation: int
    terms: TunnelOptions
    port: int
    """TCP port, whose listening socket comes with the message of a hot restart; 0 for none."""
    program: bytes = b""
    """Program of the client that held it (``messages.BindV2``), if the client said so."""
    is_first_ask: bool = False
    """That program had not had the name before: it was started later than any that asks again."""

    @classmethod
    def of(cls, tunnel: Tunnel, port: int) -> Self:
        """Return the record of a tunnel, with this TCP port."""
        ticket = tunnel.ticket
        return cls(
            tunnel.name,
            tunnel.owner,
            ticket.generation,
            tunnel.options,
            port,
            ticket.program,
            ticket.is_first_ask,
        )
