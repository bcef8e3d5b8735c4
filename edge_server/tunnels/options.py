"""On which terms a name is held: what visitors of it meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from quictunnel.wire.messages import Networks

if TYPE_CHECKING:
    from typing import Self

    from quictunnel.wire.messages import Bind


class TunnelOptions(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """As the client asked; the fields mean what those of ``messages.Bind`` mean. One edge tells them to the
    next."""

    h2: bool = False
    passthrough: bool = False
    proxy_protocol: int = 0
    allow: Networks = []
    deny: Networks = []

    @classmethod
    def of(cls, bind: Bind) -> Self:
        return cls(bind.h2, bind.passthrough, bind.proxy_protocol, bind.allow, bind.deny)
