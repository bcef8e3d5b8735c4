"""Entry point of the command line: arguments in, exit status out. The composition root of ``quictunnel``."""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any, Final

from quictunnel.cli import completion, grammar
from quictunnel.cli.demo import Demo, load_edges, open_client
from quictunnel.cli.door import load as load_door
from quictunnel.cli.events import JsonView
from quictunnel.cli.parser import UsageError, build, check_command, split_program
from quictunnel.cli.tunnel_runner import Inbox, Interrupts, TunnelRequest, serve
from quictunnel.cli.version import engine
from quictunnel.cli.views import PlainView
from quictunnel.config.client_config import load as load_config
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
from quictunnel.shared.malloc import keep_pages
from quictunnel.version import VERSION

if TYPE_CHECKING:
    from quictunnel.cli.demo import Edges
    from quictunnel.cli.door import Door, TunnelClient
    from quictunnel.cli.views import View

DONE: Final = 0
"""Exit status after success, and after Ctrl-C or SIGTERM."""
FAILED: Final = 1
"""Exit status of an error outside the configuration: the demo's request failed, the peer violated the protocol."""
MISCONFIGURED: Final = 2
"""Exit status of a wrong command line, a wrong configuration or a refused token."""
UNREACHABLE: Final = 3
"""Exit status when the edge cannot be reached."""


def main(argv: list[str] | None = None, *, door: Door | None = None, edges: Edges | None = None) -> int:
    """Run one command and return its exit status. A user's mistakes raise nothing; ``--help`` raises SystemExit.

    Args:
        argv: command-line arguments; None: those of this process.
        door: replacement for the package's Python interface, for tests.
        edges: replacement for the embedded edge, for tests.
    """
    arguments = sys.argv[1:] if argv is None else argv
    keep_pages()
    return output.run(lambda: _main(arguments, door, edges))


def _main(argv: list[str], door: Door | None, edges: Edges | None) -> int:
    """Run one command and return its exit status. Print the package's errors on one line of stderr."""
    try:
        check_command(argv)
        arguments, program = split_program(argv)
        return _run(build().parse_args(arguments, Namespace(program=program)), door, edges)
    except UsageError as error:
        return _fail(MISCONFIGURED, str(error), error.hint)
    except EdgeUnavailableError as error:
        return _fail(
            UNREACHABLE,
            str(error),
            "Check host and port (UDP); `quictunnel demo` needs no edge; --log-level debug shows more.",
        )
    except AuthError as error:
        return _fail(MISCONFIGURED, str(error), "The token comes from QUICTUNNEL_TOKEN or --token-file.")
    except (ConfigError, InvalidError) as error:
        return _fail(MISCONFIGURED, str(error), "`quictunnel --help` explains; `quictunnel demo` needs no edge.")
    except OriginUnavailableError as error:
        return _fail(FAILED, str(error), "`quictunnel doctor PORT` checks the local port.")
    except ProtocolError as error:
        return _fail(
            FAILED, str(error), "Client and edge may be of different versions; --log-level debug shows more."
        )
    except Error as error:
        return _fail(FAILED, str(error), "--log-level debug shows more.")
    except KeyboardInterrupt:
        return DONE  # stopped before the tunnel was open: nothing to drain


def _run(options: Namespace, door: Door | None, edges: Edges | None) -> int:
    if options.version:
        print(f"quictunnel {VERSION}, engine {engine(os.environ)}")
        return DONE
    match options.command:
        case "completion":
            print(completion.script(options.shell), end="")
        case "http" | "tcp":
            _set_up_logging(options.log_level)
            _tunnel(options, door or load_door())
        case "run":
            from quictunnel.cli.init import as_first_process  # noqa: PLC0415  # only this command starts processes
            from quictunnel.cli.run_command import launch  # noqa: PLC0415  # likewise

            _set_up_logging(options.log_level)
            return as_first_process(lambda: launch(options, door or load_door(), forward_options(options)))
        case "doctor":
            from quictunnel.cli.doctor import doctor  # noqa: PLC0415  # loads all installed engines

            return doctor(options)
        case "status":
            from quictunnel.cli.status import status  # noqa: PLC0415  # loads asyncio

            return status(options)
        case "demo":
            _set_up_logging(options.log_level)
            return _demo(options, door or load_door(), edges or load_edges())
        case _:
            build().print_help()
    return DONE


def _tunnel(options: Namespace, door: Door) -> None:
    config = load_config(edge=options.edge, ca=options.ca, token_file=options.token_file)
    inbox = Inbox()
    interrupts = Interrupts(inbox)
    with interrupts.installed():
        client = open_client(door, config)
        wanted = TunnelRequest(options.port, forward_options(options))
        view = _view(client, as_json=options.json)
        serve(door, client, wanted, view=view, inbox=inbox, interrupts=interrupts)


def forward_options(options: Namespace) -> dict[str, Any]:
    """Return the arguments of ``forward()`` from the command line's options."""
    found: dict[str, Any] = {"unencrypted": options.command == "tcp"}
    given = vars(options)
    for name in grammar.FORWARD_OPTIONS:
        if value := given.get(name):
            found[name] = value.split(",") if name in ("allow", "deny") else value
    if given.get("inspect_address"):
        found["inspect"] = True
    if given.get("h2"):
        found["h2_enabled"] = True
    if given.get("passthrough"):
        found["tls"] = "passthrough"
    return found


def _demo(options: Namespace, door: Door, edges: Edges) -> int:
    inbox = Inbox()
    interrupts = Interrupts(inbox)
    demo = Demo(door, edges, once=options.once)
    with interrupts.installed():
        demo.run(lambda client: _view(client, as_json=options.json), inbox, interrupts)
    if demo.failed:
        return _fail(FAILED, demo.failed, "--log-level debug shows more.")
    return DONE


def _view(client: TunnelClient, *, as_json: bool) -> View:
    stream = output.standard_output()
    if as_json:
        return JsonView(stream)
    if not output.has_cursor(stream, os.environ):
        return PlainView(stream)
    # Importing rich takes a tenth of a second: do it only for a terminal.
    from rich.console import Console  # noqa: PLC0415  # see the line above

    from quictunnel.cli.screen import MIN_WIDTH, ScreenView  # noqa: PLC0415  # likewise

    console = Console(highlight=False, file=stream)
    # rich can treat a terminal as a log because of its own variables (TTY_INTERACTIVE, TTY_COMPATIBLE).
    if not console.is_interactive or console.width < MIN_WIDTH:
        return PlainView(stream)
    return ScreenView(console, client.snapshot)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable at run time in 3.11
    """Log handler for the current sys.stderr: a screen replaces it, so that log lines appear above the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Lines(logging.Formatter):
    """Log formatter: one line for each record and its traceback, with terminal control sequences escaped."""

    def format(self, record: logging.LogRecord) -> str:
        what = output.visible(record.getMessage())
        lines = [f"{self.formatTime(record)} {record.levelname} {record.name}: {what}"]
        if record.exc_info:
            lines += map(output.visible, self.formatException(record.exc_info).split("\n"))
        return "\n".join(lines)


def _set_up_logging(level: str) -> None:
    handler = _Stderr()
    handler.setFormatter(_Lines())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _fail(status: int, message: str, hint: str) -> int:
    print(f"quictunnel: error: {' '.join(message.split())}", file=sys.stderr)
    print(f"  {hint}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
