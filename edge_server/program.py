"""The program of the edge: serve until a signal stops it, or run an operator's command.

Each command imports only the modules that it needs, because a health check runs every few seconds.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from edge_server.cli.commands import main as run_command
from edge_server.config.program_name import error_name
from quictunnel.errors import ConfigError
from quictunnel.shared import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_server.config.edge_config import Reading

EXIT_CONFIG: Final = 2


def check(reading: Reading) -> int:
    """Print the result of ``--check-config``, and return the exit status."""
    from edge_server.cli import check_config  # noqa: PLC0415 - no other command needs it

    wrong, lines = check_config.report(reading)
    complain(wrong)
    print(*lines, sep="\n", end="\n" if lines else "")  # noqa: T201 - what was asked for
    return EXIT_CONFIG if wrong else 0


def complain(problems: Sequence[str]) -> None:
    """Print the problems to standard error, one line each."""
    for problem in problems:
        print(f"{error_name()}: error: {problem}", file=sys.stderr)  # noqa: T201 - what was asked for


def run(words: Sequence[str]) -> int:
    """Run the program with the given arguments and return its exit status.

    Raises:
        KeyboardInterrupt: Ctrl-C before the edge handles signals itself, or during a command.
    """
    return output.run(lambda: _run(words))


def _run(words: Sequence[str]) -> int:
    if words and not words[0].startswith("-"):
        return run_command(words)  # also a wrong one: the error has a suggestion
    from edge_server.config.edge_config import read  # noqa: PLC0415 - the commands do not need the options

    def read_again() -> Reading:
        return read(words, os.environ)

    reading = read_again()
    if reading.only_check:
        return check(reading)
    if reading.config is None:
        complain(reading.problems)
        return EXIT_CONFIG
    try:
        from edge_server.service import serve  # noqa: PLC0415 - neither --help nor --check-config needs the server

        serve(reading.config, read_again)
    except ConfigError as error:
        complain([str(error)])
        return EXIT_CONFIG
    return 0
