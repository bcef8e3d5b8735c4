"""``quictunnel-edge`` or ``python -m edge_server``: run an edge until a signal stops it, or an operator's command.

Each command imports only the modules that it needs, because a health check runs every few seconds. This module
imports nothing else of the project before :func:`main` handles Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

STOPPED: Final = 0
"""Exit status of an edge that was stopped by Ctrl-C."""
INTERRUPTED: Final = 130
"""Exit status that a shell reports for a command that SIGINT (2) ended: 128 + 2."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status. ``argv``: its arguments, by default those of the process."""
    words = sys.argv[1:] if argv is None else argv
    try:
        from edge_server.program import run  # noqa: PLC0415 - Ctrl-C during the import

        return run(words)
    except KeyboardInterrupt:  # before the edge handles signals itself, or during a command
        return STOPPED if _is_to_serve(words) else INTERRUPTED


def _is_to_serve(words: Sequence[str]) -> bool:
    return "--check-config" not in words and (not words or words[0].startswith("-"))


if __name__ == "__main__":
    raise SystemExit(main())
