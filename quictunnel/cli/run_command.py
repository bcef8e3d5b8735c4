"""``quictunnel run``: start a program, open a tunnel to its port, and end both in the right order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from quictunnel.cli.child import Child
from quictunnel.cli.demo import open_client
from quictunnel.cli.events import JsonView
from quictunnel.cli.port_detection import PORT, port_of
from quictunnel.cli.tunnel_runner import Inbox, Interrupts, TunnelRequest, serve
from quictunnel.cli.views import PlainView
from quictunnel.config.client_config import TOKEN
from quictunnel.config.client_config import load as load_config
from quictunnel.errors import InvalidError, OriginUnavailableError
from quictunnel.origin.wait_option import DEFAULT_WAIT
from quictunnel.shared import output

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping

    from quictunnel.cli.door import Door

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


def launch(options: Namespace, door: Door, terms: dict[str, Any]) -> int:
    """Run the program and its tunnel. Return the program's exit status, or 0 if the command was stopped.

    An error of the package ends the program and passes through.
    """
    command: list[str] = options.program
    port = port_of(command, os.environ, options.port)
    config = load_config(edge=options.edge, ca=options.ca, token_file=options.token_file)
    if is_listening(port):
        raise InvalidError(
            f"Port {port} is already in use by another program: stop that, or give {command[0]} another port."
        )
    inbox = Inbox()
    child: Child | None = None

    def leave(status: int) -> None:
        if child is not None:
            child.kill()
        os._exit(status)

    interrupts = Interrupts(inbox, leave)
    with interrupts.installed(), contextlib.ExitStack() as stack:
        with interrupts.held():
            child = Child(
                command,
                environment(os.environ, port),
                stdout=sys.stderr if options.json else None,  # stdout is for JSON events
                when_over=inbox.stop,
            )
            stack.callback(child.stop)
        with forward_signals(child, interrupts):
            wait_for(child, port, terms.pop("wait", DEFAULT_WAIT))
            if child.status is None:
                client = open_client(door, config)
                view = (JsonView if options.json else PlainView)(output.standard_output())
                serve(door, client, TunnelRequest(port, terms), view=view, inbox=inbox, interrupts=interrupts)
        status = child.status
    return STOPPED if status is None else report_end(child, status, port, was_open=interrupts.is_serving)


def report_end(child: Child, status: int, port: int, *, was_open: bool) -> int:
    """Print how the program ended and return the command's exit status."""

    when = "" if was_open else f" before it listened on port {port}"
    print(f"quictunnel: {child.name} {child.ending}{when}", file=sys.stderr)
    if not was_open and status == 0:
        print("  It must stay in the foreground; a program that goes to the background is ended.", file=sys.stderr)
        return FAILED
    return status


def environment(environ: Mapping[str, str], port: int) -> dict[str, str]:
    """Return the program's environment: with PORT and without the token.

    A debug page of a web app could show the token to visitors. The public address is not in it, because it is not
    known before the program listens.
    """
    return {name: value for name, value in environ.items() if name != TOKEN} | {PORT: str(port)}


def is_listening(port: int) -> bool:
    """Return True if a local port accepts a connection."""
    for host in LOOPBACKS:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=PROBE_TIMEOUT):
            return True
    return False


def wait_for(child: Child, port: int, seconds: float) -> None:
    """Return when the program listens on the port or has ended.

    Raises:
        OriginUnavailableError: it did neither within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not child.over.is_set() and not is_listening(port):
        if time.monotonic() >= deadline:
            raise OriginUnavailableError(
                f"{child.name} runs, but does not listen on port {port} of this machine after {seconds:g} s: name "
                "its port with --port, or give it more time with --wait."
            )
        child.over.wait(POLL_INTERVAL)


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
            child.tell(number)

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
