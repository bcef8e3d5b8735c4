"""``quictunnel run``: a program and its tunnel, started in the right order and ended in the right order."""

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
from quictunnel.cli.tunnel_runner import Inbox, Interrupts, Wanted, serve
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
LOOK_TIMEOUT: Final = 1.0
"""Seconds for one connection on this machine, to see whether somebody listens."""
LOOK_PAUSE: Final = 0.1
"""Seconds between looks at whether the program listens."""
PASSED_ON: Final = ("SIGHUP", "SIGUSR1", "SIGUSR2")
"""Signals that mean something to the program and nothing to the tunnel."""
STOPPED: Final = 0
FAILED: Final = 1


def launch(options: Namespace, door: Door, terms: dict[str, Any]) -> int:
    """The command. Gives the exit status: the program's when it ended by itself, 0 when it was stopped. Raises the
    package's errors; the program is ended then, too."""
    command: list[str] = options.program
    port = port_of(command, os.environ, options.port)
    config = load_config(edge=options.edge, ca=options.ca, token_file=options.token_file)
    if is_listening(port):
        raise InvalidError(
            f"Port {port} is taken already, by another program: stop that, or give {command[0]} another port."
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
                stdout=sys.stderr if options.json else None,  # stdout is for programs that read events
                when_over=inbox.stop,
            )
            stack.callback(child.stop)
        with passing_on(child, interrupts):
            wait_for(child, port, terms.pop("wait", DEFAULT_WAIT))
            if child.status is None:
                client = open_client(door, config)
                view = (JsonView if options.json else PlainView)(output.standard_output())
                serve(door, client, Wanted(port, terms), view=view, inbox=inbox, interrupts=interrupts)
        status = child.status
    return STOPPED if status is None else told(child, status, port, was_open=interrupts.is_serving)


def told(child: Child, status: int, port: int, *, was_open: bool) -> int:
    """Say how the program ended by itself; what the command ends with."""
    when = "" if was_open else f" before it listened on port {port}"
    print(f"quictunnel: {child.name} {child.ending}{when}", file=sys.stderr)
    if not was_open and status == 0:
        print("  It has to stay in the foreground; what puts itself in the background is ended.", file=sys.stderr)
        return FAILED
    return status


def environment(environ: Mapping[str, str], port: int) -> dict[str, str]:
    """What the program gets: PORT, and everything but the token, which a web app's page of its variables would
    show to visitors. The address of the tunnel is not known before the program runs."""
    return {name: value for name, value in environ.items() if name != TOKEN} | {PORT: str(port)}


def is_listening(port: int) -> bool:
    for host in LOOPBACKS:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=LOOK_TIMEOUT):
            return True
    return False


def wait_for(child: Child, port: int, seconds: float) -> None:
    """Until it listens, or has ended. Raises OriginUnavailableError when it does neither for so long."""
    deadline = time.monotonic() + seconds
    while not child.over.is_set() and not is_listening(port):
        if time.monotonic() >= deadline:
            raise OriginUnavailableError(
                f"{child.name} runs, but does not listen on port {port} of this machine after {seconds:g} s: is "
                "this its port? --port says another, --wait gives it more time."
            )
        child.over.wait(LOOK_PAUSE)


@contextlib.contextmanager
def passing_on(child: Child, interrupts: Interrupts) -> Iterator[None]:
    """Signals for the program reach it. When the terminal is closed, which says so by SIGHUP, that is the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)]
    of_terminal = {signal.SIGHUP} if hasattr(signal, "SIGHUP") and sys.stdin and sys.stdin.isatty() else set()

    def pass_on(number: int, _frame: object) -> None:
        if number in of_terminal:
            interrupts(number)
        else:
            child.tell(number)

    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
