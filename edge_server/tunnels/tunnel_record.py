"""The record of a tunnel that an edge passes on to the next one: by a hot restart, or by the snapshot of held
names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from edge_server.tunnels.options import TunnelOptions

if TYPE_CHECKING:
    from typing import Self

    from edge_server.tunnels.tunnel import Tunnel


class TunnelRecord(msgspec.Struct, array_like=True, frozen=True):
    """A tunnel that its client will request again."""

    name: str
    owner: str
    generation: int
    options: TunnelOptions
    port: int
    """TCP port, whose listening socket is sent with the message of a hot restart; 0 for none."""
    client_id: bytes = b""
    """ID of its client (``messages.BindV2.client_id``); empty if the client did not send it."""
    is_first_bind: bool = False
    """True if this client got the name by its first Bind (``again`` False), so it is newer than every earlier
    holder of the name."""

    @classmethod
    def of(cls, tunnel: Tunnel, port: int) -> Self:
        """Return the record of a tunnel, with this TCP port."""
        ticket = tunnel.ticket_record
        return cls(
            tunnel.name,
            tunnel.owner,
            ticket.generation,
            tunnel.options,
            port,
            ticket.client_id,
            ticket.is_first_bind,
        )
