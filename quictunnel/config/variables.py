"""Names of the environment variables of a client, and the values of those with a choice."""

from __future__ import annotations

from typing import Final

EDGE: Final = "QUICTUNNEL_EDGE"
TOKEN: Final = "QUICTUNNEL_TOKEN"  # noqa: S105  # the name of a variable, not a secret
CA: Final = "QUICTUNNEL_CA"
CREDENTIAL: Final = "QUICTUNNEL_CREDENTIAL"
PROFILE: Final = "QUICTUNNEL_PROFILE"
ENGINE: Final = "QUICTUNNEL_ENGINE"
ENGINES: Final = ("auto", "native", "aioquic")
CONGESTION: Final = "QUICTUNNEL_CONGESTION"
CONGESTIONS: Final = ("auto", "bbr", "cubic")
QLOG: Final = "QUICTUNNEL_QLOG"
