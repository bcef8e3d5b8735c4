"""The entry of the command line: arguments in, exit status out. The composition root of ``quictunnel``."""

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
from quictunnel.cli.tunnel_runner import Inbox, Interrupts, Wanted, serve
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
FAILED: Final = 1
"""Something that is nobody's configuration: the demo's fetch failed, a peer broke the protocol."""
MISCONFIGURED: Final = 2
UNREACHABLE: Final = 3


def main(argv: list[str] | None = None, *, door: Door | None = None, edges: Edges | None = None) -> int:
    """Run one command. Never raises for anything that a user can cause; ``--help`` is the one SystemExit.

    ``door`` and ``edges`` stand in for the package's own.
    """
    words = sys.argv[1:] if argv is None else argv
    keep_pages()
    return output.run(lambda: _main(words, door, edges))


def _main(argv: list[str], door: Door | None, edges: Edges | None) -> int:
    """Run one command and return its exit status; errors of the package end in one line on stderr."""
    try:
        check_command(argv)
        ours, program = split_program(argv)
        return _run(build().parse_args(ours, Namespace(program=program)), door, edges)
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
        return _fail(FAILED, str(error), "`quictunnel doctor PORT` looks at the local port.")
    except ProtocolError as error:
        return _fail(
            FAILED, str(error), "Client and edge may be of different versions; --log-level debug shows more."
        )
    except Error as error:
        return _fail(FAILED, str(error), "--log-level debug shows more.")
    except KeyboardInterrupt:
        return DONE  # asked to stop before it was open: nothing was exposed, there is nothing to drain


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
            from quictunnel.cli.init import as_first_process  # noqa: PLC0415  # processes: the others have none
            from quictunnel.cli.run_command import launch  # noqa: PLC0415  # likewise

            _set_up_logging(options.log_level)
            return as_first_process(lambda: launch(options, door or load_door(), terms(options)))
        case "doctor":
            from quictunnel.cli.doctor import doctor  # noqa: PLC0415  # loads the engines, whichever there are

            return doctor(options)
        case "status":
            from quictunnel.cli.status import status  # noqa: PLC0415  # loads asyncio, which most need not

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
        wanted = Wanted(options.port, terms(options))
        view = _view(client, as_json=options.json)
        serve(door, client, wanted, view=view, inbox=inbox, interrupts=interrupts)


def terms(options: Namespace) -> dict[str, Any]:
    """The arguments of ``forward()`` that the command line gives."""
    found: dict[str, Any] = {"unencrypted": options.command == "tcp"}
    given = vars(options)
    for name in grammar.TERMS:
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
    # rich costs a tenth of a second to load: only a terminal pays it.
    from rich.console import Console  # noqa: PLC0415  # see the line above

    from quictunnel.cli.screen import MIN_WIDTH, ScreenView  # noqa: PLC0415  # likewise

    console = Console(highlight=False, file=stream)
    # rich has variables of its own that turn a terminal into a log (TTY_INTERACTIVE, TTY_COMPATIBLE).
    if not console.is_interactive or console.width < MIN_WIDTH:
        return PlainView(stream)
    return ScreenView(console, client.snapshot)


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]  # not subscriptable at run time in 3.11
    """Whatever sys.stderr is now: a screen replaces it, so that log lines appear above it and not inside."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Lines(logging.Formatter):
    """One line a record, and its traceback, without anything that a terminal would obey."""

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
