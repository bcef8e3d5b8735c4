"""The options of a tunnel that apply to its visitors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from quictunnel.wire.messages import Networks

if TYPE_CHECKING:
    from typing import Self

    from quictunnel.wire.messages import Bind


class TunnelOptions(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The options that the client requested; the fields have the meaning of those of ``messages.Bind``."""

    h2: bool = False
    passthrough: bool = False
    proxy_protocol: int = 0
    allow: Networks = []
    deny: Networks = []

    @classmethod
    def of(cls, bind: Bind) -> Self:
        """Return the options in a Bind."""
        return cls(bind.h2, bind.passthrough, bind.proxy_protocol, bind.allow, bind.deny)
