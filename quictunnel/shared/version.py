"""The version of this software, and its name on the wire and on the command line."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
SOFTWARE: Final = f"quictunnel/{VERSION}"
