"""The name of this program, as its user typed it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

SCRIPT: Final = "quictunnel-edge"
"""The console script of the wheel."""
MODULE: Final = "edge_server"
"""The package, which Python also runs without the script: in a clone, or in a virtual environment off the path."""


def usage_name() -> str:
    """Return the name for usage lines: ``quictunnel-edge``, or ``python -m edge_server`` if it was called so."""
    return f"python -m {MODULE}" if _is_module() else SCRIPT


def error_name() -> str:
    """Return the name that begins a line about an error."""
    return MODULE if _is_module() else SCRIPT


def _is_module() -> bool:
    called = Path(sys.argv[0] if sys.argv else "")
    return (called.parent.name, called.name) == (MODULE, "__main__.py")
