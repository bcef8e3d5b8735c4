"""``quictunnel`` or ``python -m quictunnel``: run a command.

This module imports nothing else of the command line before :func:`main` handles Ctrl-C.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line of this process and return its exit status."""
    try:
        from quictunnel.cli.main import main as run  # noqa: PLC0415 - Ctrl-C during the import

        return run()
    except KeyboardInterrupt:
        return 0  # as after Ctrl-C later; nothing has been opened


if __name__ == "__main__":
    sys.exit(main())
