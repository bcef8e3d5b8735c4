"""``quictunnel run``: start a program, open a tunnel to its port, and end both in the right order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from quictunnel.cli.child import Child
from quictunnel.cli.common_options import DOMAIN, EDGE_LOOKUP, TUNNEL, forward_arguments, port
from quictunnel.cli.init import as_first_process
from quictunnel.cli.output_options import choose_reporter, take_output_options
from quictunnel.cli.port_detection import PORT, port_of
from quictunnel.cli.tunnel_runner import Inbox, Interrupts, TunnelRequest, new_client, serve
from quictunnel.config.client_config import load as load_config
from quictunnel.config.variables import CREDENTIAL, TOKEN
from quictunnel.errors import InvalidError, OriginUnavailableError
from quictunnel.origin.wait_option import DEFAULT_WAIT
from quictunnel.shared.command_line import Command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LOOPBACKS: Final = ("127.0.0.1", "::1")
PROBE_TIMEOUT: Final = 1.0
"""Seconds for one probe connection on this machine."""
POLL_INTERVAL: Final = 0.1
"""Seconds between probes whether the program listens."""
FORWARDED_SIGNALS: Final = ("SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals for the program that the tunnel does not use."""
STOPPED: Final = 0
"""Exit status after Ctrl-C or SIGTERM."""
FAILED: Final = 1
"""Exit status for a program that succeeded but never listened."""


class ProgramCommand(Command):
    """Command that runs a program: its own options come before the program, and ``--`` may separate them."""

    allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options, and take everything from the first other word on, or after ``--``, for the
        program."""
        end = args.index("--") if "--" in args else len(args)  # no value of an option before it
        super().parse_args(ctx, args[:end])
        begun = tuple(ctx.params.get("program") or ())
        program = begun + tuple(args[end if begun else end + 1 :])
        if not ctx.resilient_parsing and not program:
            raise click.UsageError(
                "The program is missing, as in `quictunnel run python -m http.server 8000`.", ctx
            )
        ctx.params["program"] = program
        return []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return completions of an option: none of this command's once the program has begun."""
        if program := self._program_argument(ctx):
            return complete_program(ctx, program, incomplete)
        return super().shell_complete(ctx, incomplete)

    def _program_argument(self, ctx: click.Context) -> click.Parameter | None:
        """Return the argument that is the program, if the program has begun."""
        return next((each for each in self.params if each.name == "program" and ctx.params["program"]), None)


def complete_program(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return completions of a word of the program: programs for the first, files for others."""
    program = context.params["program"]
    if program or os.sep in incomplete:
        return [CompletionItem(incomplete, type="file")]
    found: set[str] = set()
    for folder in os.get_exec_path():
        with contextlib.suppress(OSError):
            paths = [path for path in Path(folder).iterdir() if path.name.startswith(incomplete)]
            found.update(path.name for path in paths if os.access(path, os.X_OK))
    return [CompletionItem(name) for name in sorted(found)]


@click.command(
    cls=ProgramCommand,
    help="Run a program, wait until it listens on its port, and expose the port at a public https:// address "
    "until the program ends or Ctrl-C. At the end the tunnel closes first and open connections may finish. Then "
    "the program and its child processes get SIGTERM and, 10 seconds later, SIGKILL.",
    epilog=f"""\
Examples:
  quictunnel run uvicorn app:app --port 8000
  quictunnel run --name my-app python -m http.server 8000
  quictunnel run --port 3000 npm run dev          also sets PORT=3000 for the program
  quictunnel run --json flask run --port 5000     its output goes to stderr, events to stdout
  quictunnel run -- python app.py                 -- may stand before the program

Options of quictunnel come before the program; those after it are the program's.

Choice of the port:
  --port, or the port in the program's command line (--port 8000, -p 8000, --bind 0.0.0.0:8000, \
http.server 8000, runserver 8000, PORT=8000) or in the variable PORT. It is never guessed.

The program gets neither QUICTUNNEL_TOKEN nor QUICTUNNEL_CREDENTIAL. No variable has its public \
address, because the tunnel opens only when the program listens.

Exit status:
  0        stopped by Ctrl-C or SIGTERM
  1, 2, 3  an error of quictunnel, as in `quictunnel --help`
  otherwise the exit status of the program (1 if it succeeded but never listened)
{EDGE_LOOKUP}""",
)
@click.argument(
    "program",
    nargs=-1,
    metavar="[--] PROGRAM [ARGUMENT ...]",
    shell_complete=complete_program,
)
@click.option("--port", type=port, help="the port that the program listens on")
@click.option(
    "--h2",
    "h2_enabled",
    is_flag=True,
    help="offer HTTP/2 to visitors; the program must support it without TLS",
)
@DOMAIN
@TUNNEL
def run(**options: Any) -> int:
    """Run ``quictunnel run`` and return its exit status."""
    return as_first_process(lambda: launch(**options))


def launch(
    program: Sequence[str],
    port: int | None,
    *,
    edge: str | None,
    ca: Path | None,
    token_file: Path | None,
    profile: str | None,
    wait: float | None,
    **options: Any,
) -> int:
    """Run the program and its tunnel. Return the program's exit status, or 0 if the command was stopped.

    An error of the package ends the program and is raised.
    """
    output = take_output_options(options, default_requests=False)  # most programs log requests themselves
    port = port_of(program, os.environ, port)
    config = load_config(edge=edge, ca=ca, token_file=token_file, profile=profile)
    check_port_is_free(port, program[0])
    inbox = Inbox()
    child: Child | None = None
    stopped = STOPPED

    def exit_process(status: int) -> None:
        if child is not None:
            child.kill()
        os._exit(status)

    interrupts = Interrupts(inbox, exit_process)
    with interrupts.installed(), contextlib.ExitStack() as stack:
        with interrupts.delayed():
            child_output = sys.stderr if output.as_json else None  # stdout is for JSON events
            child = Child(program, environment(os.environ, port), stdout=child_output, when_ended=inbox.stop)
            stack.callback(child.stop)
        with forward_signals(child, interrupts):
            wait_for_program(child, port, wait or DEFAULT_WAIT)
            if child.status is None:
                client = new_client(config)
                stopped = serve(
                    client,
                    TunnelRequest(port, forward_arguments(options)),
                    reporter=choose_reporter(client, output, can_redraw=False),
                    inbox=inbox,
                    interrupts=interrupts,
                    output=output,
                )
        status = child.status
    return stopped if status is None else report_end(child, status, port, was_open=interrupts.is_serving)


def check_port_is_free(port: int, program: str) -> None:
    """Raise InvalidError if somebody listens on the port already."""
    if is_listening(port):
        raise InvalidError(
            f"Port {port} is already in use by another program: stop that, or give {program} another port."
        )


def report_end(child: Child, status: int, port: int, *, was_open: bool) -> int:
    """Print how the program ended and return the command's exit status."""

    when = "" if was_open else f" before it listened on port {port}"
    print(f"quictunnel: {child.name} {child.description_of_end}{when}", file=sys.stderr)
    if not was_open and status == 0:
        print("  It must stay in the foreground; a program that goes to the background is ended.", file=sys.stderr)
        return FAILED
    return status


def environment(environ: Mapping[str, str], port: int) -> dict[str, str]:
    """Return the program's environment: with PORT and without the token.

    A debug page of a web app could show the token to visitors. The public address is not in it, because it is not
    known before the program listens.
    """
    return {name: value for name, value in environ.items() if name not in (TOKEN, CREDENTIAL)} | {PORT: str(port)}


def is_listening(port: int) -> bool:
    """Return True if a local port accepts a connection."""
    for host in LOOPBACKS:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=PROBE_TIMEOUT):
            return True
    return False


def wait_for_program(child: Child, port: int, seconds: float) -> None:
    """Return when the program listens on the port or has ended.

    Raises:
        OriginUnavailableError: it did neither within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not child.ended.is_set() and not is_listening(port):
        if time.monotonic() >= deadline:
            raise OriginUnavailableError(
                f"{child.name} runs, but does not listen on port {port} of this machine after {seconds:g} s: name "
                "its port with --port, or give it more time with --wait."
            )
        child.ended.wait(POLL_INTERVAL)


@contextlib.contextmanager
def forward_signals(child: Child, interrupts: Interrupts) -> Iterator[None]:
    """Forward signals to the program. SIGHUP of a closed terminal stops the command instead."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in FORWARDED_SIGNALS if hasattr(signal, name)]
    of_terminal = {signal.SIGHUP} if hasattr(signal, "SIGHUP") and sys.stdin and sys.stdin.isatty() else set()

    def handle(number: int, _frame: object) -> None:
        if number in of_terminal:
            interrupts(number)
        else:
            child.forward_signal(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
