"""``python -m quictunnel``: the command line if the ``quictunnel`` script is not on the path."""

import sys

from quictunnel.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
