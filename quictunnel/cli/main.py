"""Entry point of the command line: arguments in, exit status out."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import shell_complete

from quictunnel.cli.completion import VARIABLE
from quictunnel.errors import (
    AuthError,
    ConfigError,
    EdgeUnavailableError,
    Error,
    InvalidError,
    OriginUnavailableError,
    ProtocolError,
)
from quictunnel.shared import output
from quictunnel.shared.command_line import (
    LazyGroup,
    error_event,
    error_kind,
    error_text,
    is_json_requested,
    run,
    usage_hint,
)
from quictunnel.shared.malloc import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM: Final = "quictunnel"
DONE: Final = 0
"""Exit status after success, and after Ctrl-C or SIGTERM."""
FAILED: Final = 1
"""Exit status of an error outside the configuration: the demo's request failed, the peer violated the protocol."""
MISCONFIGURED: Final = 2
"""Exit status of a wrong command line, a wrong configuration or a refused token."""
UNREACHABLE: Final = 3
"""Exit status when the edge cannot be reached, or is full: it takes no more clients or tunnels, from this token
or from anyone."""
OUTCOMES: Final[tuple[tuple[type[Error], int, str], ...]] = (
    (
        EdgeUnavailableError,
        UNREACHABLE,
        "`quictunnel doctor` finds out why.",
    ),
    (AuthError, MISCONFIGURED, "The token comes from QUICTUNNEL_TOKEN or --token-file."),
    (ConfigError, MISCONFIGURED, "`quictunnel doctor` checks the configuration."),
    (InvalidError, MISCONFIGURED, ""),
    (OriginUnavailableError, FAILED, "`quictunnel doctor PORT` checks the local service."),
    (
        ProtocolError,
        FAILED,
        "Client and edge may be of different versions; --log-level debug shows more.",
    ),
    (Error, FAILED, ""),
)
"""Exit statuses of the package's errors, and hints for those without an advice of their own. The first entry that
fits counts."""

COMMANDS: Final = {
    "http": ("quictunnel.cli.forward_commands", "expose a local port at a public https:// address"),
    "tcp": (
        "quictunnel.cli.forward_commands",
        "expose a local port at a public TCP port, unencrypted, and at an https:// address",
    ),
    "run": (
        "quictunnel.cli.run_command",
        "run a program that listens on a port, and expose that port while it runs",
    ),
    "login": ("quictunnel.cli.login", "store the credential of an edge (qt1...) on this machine"),
    "logout": ("quictunnel.cli.login", "remove a stored credential"),
    "profiles": ("quictunnel.cli.login", "list the edges that login has stored"),
    "status": ("quictunnel.cli.status", "list the tunnels of your programs on this machine"),
    "doctor": ("quictunnel.cli.doctor", "find out why a tunnel does not work, or is slow"),
    "demo": ("quictunnel.cli.demo", "run an edge, an app and a tunnel in one process, without configuration"),
    "completion": ("quictunnel.cli.completion", "print a completion script for your shell"),
    "help": ("quictunnel.cli.help_commands", "show the help of a command"),
    "version": ("quictunnel.cli.help_commands", "show the version and the QUIC engine in use"),
}
"""Module and summary of each command."""


def _print_version(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        from quictunnel.cli.help_commands import version_line  # noqa: PLC0415 - no other option needs it

        print(version_line())
        context.exit()


@click.group(
    PROGRAM,
    cls=LazyGroup,
    modules=COMMANDS,
    help="Expose a port of this machine or container to the internet, over one QUIC connection to your own edge.",
    epilog="""\
Examples:
  quictunnel demo         a demo without configuration
  quictunnel http 8000    a public https:// address for port 8000
  quictunnel tcp 22       a public TCP port for port 22
  quictunnel run uvicorn app:app --port 8000       start an app and expose it
  quictunnel login        store the credential that your edge printed
  quictunnel status       list the tunnels of your programs
  quictunnel doctor       find out why a tunnel does not work

Exit status:
  0    stopped by Ctrl-C or SIGTERM, after open connections have finished (a second Ctrl-C stops
       at once)
  1    another failure, such as no listener on the local port within --wait
  2    wrong usage, wrong configuration, or a token, name or port that the edge refuses
  3    the edge cannot be reached, or is full: it takes no more clients or
       tunnels, from this token or from anyone
  141  the reader of the output has closed it, as in `quictunnel doctor | head`

With --json, an error is also printed as one JSON object on stdout:
  {"event": "error", "kind": "auth", "message": "...", "hint": "...", "exit_status": 2}

`quictunnel help COMMAND` or `quictunnel COMMAND --help` shows the help of a command.
""",
    invoke_without_command=True,
    subcommand_metavar="COMMAND ...",
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="show the version and the QUIC engine in use, and exit",
)
@click.pass_context
def commands(context: click.Context) -> None:
    """Print the help if no command is chosen."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. A user's mistakes raise nothing.

    Args:
        argv: command-line arguments; None: those of this process.
    """
    words = sys.argv[1:] if argv is None else argv
    keep_freed_memory()
    return output.run(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    """Run one command and return its exit status. Print the package's errors on stderr."""
    try:
        if request := os.environ.get(VARIABLE):
            return shell_complete(commands, {}, PROGRAM, VARIABLE, request)
        return run(commands, words, PROGRAM)
    except click.UsageError as error:
        status, hint, message = MISCONFIGURED, usage_hint(error), error.format_message()
        kind = error_kind(error)
    except Error as error:
        status, hint = next((status, hint) for kind, status, hint in OUTCOMES if isinstance(error, kind))
        message, hint, kind = error.message, error.advice or hint, error_kind(error)
    except KeyboardInterrupt:
        return DONE  # stopped before the tunnel was open: nothing to drain
    message = output.escape_unprintable(" ".join(error_text(message, words).split()))
    if is_json_requested(words):
        print(error_event(kind, message, hint, status), flush=True)
    print(f"quictunnel: error: {message}", *([hint] if hint else []), sep="\n  ", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
