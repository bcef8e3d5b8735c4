"""``%quictunnel``: tunnels from a notebook cell, open until they are closed or the kernel ends.

::

    %load_ext quictunnel
    %quictunnel 8000                    a public link to local port 8000
    %quictunnel web:8000                the same for another local service, as in ``forward()``
    %quictunnel 8000 --name my-app      the same public address each time
    %quictunnel 5432 --tcp              with a plain TCP address
    %quictunnel                         list open tunnels
    %quictunnel --stop 8000             close one; without a port: all

An error is shown in one line, as the error of the cell. Interrupting the kernel while a tunnel opens closes it
again. The tunnels use ``Client.from_env()``, as ``forward()`` does, and are closed when the kernel ends. Only
IPython imports this module.
"""

from __future__ import annotations

import argparse
import html
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.display import display

from quictunnel.client import Client
from quictunnel.errors import Error
from quictunnel.forwarding import forward
from quictunnel.origin.target import parse_target
from quictunnel.shared.address import MAX_PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from IPython.core.interactiveshell import InteractiveShell

    from quictunnel.tunnel import Tunnel

FINAL_STATES: Final = ("closed", "refused", "failed")
"""States of a client that are final."""
USAGE: Final = (
    "%quictunnel PORT [--name NAME] [--tcp] [--h2] opens a tunnel, %quictunnel --stop [PORT] closes it, "
    "%quictunnel lists open tunnels."
)


@dataclass(frozen=True, slots=True)
class TunnelDisplay:
    """Display of a tunnel in a notebook and in a terminal."""

    port: int | str
    tunnel: Tunnel

    def _repr_html_(self) -> str:
        url = html.escape(self.tunnel.url, quote=True)
        link = f'<a href="{url}" target="_blank" rel="noopener">{url}</a>'
        return f"<div>{link} &rarr; {html.escape(noun(self.port))}{html.escape(self._tcp())}</div>"

    def __repr__(self) -> str:
        return f"{self.tunnel.url} -> {noun(self.port)}{self._tcp()}"

    def _tcp(self) -> str:
        if not self.tunnel.unencrypted_host:
            return ""
        host, port = self.tunnel.tcp_socket
        return f", TCP {host}:{port}"


@dataclass(frozen=True, slots=True)
class _NotebookTunnel:
    options: Mapping[str, Any]
    client: Client
    display: TunnelDisplay
    ending: ExitStack


class Tunnels:
    """The open tunnels of this kernel, by local port."""

    def __init__(self) -> None:
        self._open: dict[int | str, _NotebookTunnel] = {}

    def displays(self) -> list[TunnelDisplay]:
        """Return the open tunnels in the order of their opening."""
        for port in [port for port, tunnel in self._open.items() if tunnel.client.state in FINAL_STATES]:
            self.stop(port)
        return [tunnel.display for tunnel in self._open.values()]

    def open(self, port: int | str, options: Mapping[str, Any]) -> TunnelDisplay:
        """Open a tunnel to a local port, or return the open one with the same options.

        A tunnel with other options is closed first. Raises the errors of ``forward()``.
        """
        tunnel = self._open.get(port)
        if tunnel is not None:
            if tunnel.options == options and tunnel.client.state not in FINAL_STATES:
                return tunnel.display
            self.stop(port)
        client = Client.from_env()
        with ExitStack() as stack:
            shown = TunnelDisplay(port, stack.enter_context(forward(port, client=client, **options)))
            self._open[port] = _NotebookTunnel(options, client, shown, stack.pop_all())
        return shown

    def stop(self, port: int | str) -> bool:
        """Close a tunnel; open streams get a few seconds to finish. Return False if the port has none."""
        tunnel = self._open.pop(port, None)
        if tunnel is not None:
            tunnel.ending.close()
        return tunnel is not None

    def stop_all(self) -> int:
        """Close all tunnels and return their number."""
        ports = list(self._open)
        return sum(self.stop(port) for port in ports)


@magics_class
class QuictunnelMagics(Magics):
    """IPython magics with the tunnels that they opened."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.tunnels = Tunnels()

    @line_magic
    def quictunnel(self, line: str) -> None:
        """Expose a local port at a public address: %quictunnel PORT [--name NAME] [--tcp] [--h2]."""
        arguments = _parse(line)
        try:
            self._run(arguments)
        except Error as error:
            raise UsageError(" ".join(str(error).split())) from None

    def _run(self, arguments: argparse.Namespace) -> None:
        if arguments.stop and arguments.port is None:
            print(f"{self.tunnels.stop_all()} closed")  # noqa: T201 - a cell's output
        elif arguments.stop:
            if not self.tunnels.stop(arguments.port):
                raise UsageError(f"No tunnel is open for {noun(arguments.port)}; %quictunnel lists open tunnels.")
            print(f"{noun(arguments.port)} closed")  # noqa: T201 - as above
        elif arguments.port is None:
            found = self.tunnels.displays()
            for each in found:
                display(each)  # type: ignore[no-untyped-call]  # not typed by IPython
            if not found:
                print(f"No tunnel is open. {USAGE}")  # noqa: T201 - as above
        else:
            options = {"unencrypted": arguments.tcp, "h2_enabled": arguments.h2, "name": arguments.name}
            display(self.tunnels.open(arguments.port, options))  # type: ignore[no-untyped-call]  # not typed by IPython


class _Parser(argparse.ArgumentParser):
    """Argument parser that reports errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removesuffix('.')}. {USAGE}")


def _parse(line: str) -> argparse.Namespace:
    parser = _Parser(prog="%quictunnel", add_help=False, allow_abbrev=False)
    parser.add_argument("port", nargs="?", type=_port)
    parser.add_argument("--name")
    parser.add_argument("--tcp", action="store_true")
    parser.add_argument("--h2", action="store_true")
    parser.add_argument("--stop", action="store_true")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"{error}. {USAGE}") from None
    arguments = parser.parse_args(words)
    if arguments.port is None and (arguments.name is not None or arguments.tcp or arguments.h2):
        raise UsageError(f"The port is missing. {USAGE}")
    return arguments


def _port(text: str) -> int | str:
    if text.isdigit():
        if not (text.isascii() and len(text) <= 5 and 1 <= int(text) <= MAX_PORT):
            raise argparse.ArgumentTypeError(f"a port is a number from 1 to {MAX_PORT}")
        return int(text)
    try:
        parse_target(text)
    except Error as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def noun(port: int | str) -> str:
    """Return a local service within a sentence: ``port 8000`` or ``web:8000``."""
    return port if isinstance(port, str) else f"port {port}"


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics, for ``%load_ext quictunnel``."""
    shell.register_magics(QuictunnelMagics(shell))


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Close all tunnels and remove the magics, for ``%unload_ext`` and ``%reload_ext``."""
    shell.magics_manager.magics["line"].pop("quictunnel")
    shell.magics_manager.registry.pop(QuictunnelMagics.__name__).tunnels.stop_all()
