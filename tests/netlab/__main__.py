"""``python -m tests.netlab``: a lab by hand, for those who want to see a thing happen.

Here: reading the command line and the prompt. Nothing that tests use.
"""

from __future__ import annotations

import argparse
import cmd
import dataclasses
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any, cast, get_args

from tests.netlab.lab import Lab, LabError, missing
from tests.netlab.link import Direction, Settings, WanGoneError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from tests.netlab.namespace import Host

WORDS: dict[str, bool | None] = {"on": True, "off": False, "none": None}

EPILOG = """\
Without --client and --edge there is a prompt; type help there. With one of them the command runs in that host,
with both the edge's runs beside the client's and ends with it. A command is a line for the shell, which finds the
addresses in $CLIENT, $EDGE, $CLIENT6 and $EDGE6; without a line it is an interactive shell.

  python -m tests.netlab --delay-ms 25 --rate-mbit 100 --edge 'iperf3 -s' --client 'sleep 1; iperf3 -c $EDGE'
  python -m tests.netlab --loss 0.01 --client
"""


def parse_value(text: str) -> float | bool | None:
    """A setting's value as typed: a number, ``on``, ``off`` or ``none``."""
    return WORDS[text] if text in WORDS else float(text)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; each setting of the link is an option of the same name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.netlab",
        description="Two hosts with a network between them that is as bad as you like. Needs root.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("the link, each way", "shares are 0 to 1, sizes are of IP packets")
    for name in Settings.__annotations__:
        option = f"--{name.replace('_', '-')}"
        if name in {"reorder", "blackhole"}:
            group.add_argument(option, action="store_true", default=None)
        else:
            group.add_argument(option, type=float, metavar="N")
    parser.add_argument("--nat", action="store_true", help="translate the client's UDP source ports")
    shell = os.environ.get("SHELL", "/bin/sh")
    for host in ("client", "edge"):
        parser.add_argument(
            f"--{host}", nargs="?", const=f"exec {shell}", metavar="COMMAND", help=f"run in the {host}"
        )
    return parser.parse_args(arguments)


def start(lab: Lab, host: Host, line: str) -> subprocess.Popen[Any]:
    """Start a line of shell in a host, on this terminal."""
    addresses = {
        "CLIENT": lab.client.address,
        "EDGE": lab.edge.address,
        "CLIENT6": lab.client.address6,
        "EDGE6": lab.edge.address6,
        "NETLAB_HOST": "client" if host is lab.client else "edge",
    }
    return host.popen(["/bin/sh", "-c", line], env=os.environ | addresses)


def wait(process: subprocess.Popen[Any]) -> int:
    """Wait for a program in the foreground; an interrupt from the keyboard is for it, not for the lab."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def show_stats(lab: Lab) -> None:
    """Print the counters of both directions side by side."""
    stats = lab.link.stats()
    up, down = dataclasses.asdict(stats.up), dataclasses.asdict(stats.down)
    print(f"{'':16}{'up':>14}{'down':>14}")
    for name, value in up.items():
        print(f"{name:16}{value:14}{down[name]:14}")
    print(f"{'device drops':16}{lab.client.device_drops():14}{lab.edge.device_drops():14}")


class Prompt(cmd.Cmd):
    """The lab's prompt. The methods' docstrings are what ``help`` prints."""

    prompt = "netlab> "

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab
        self.intro = (
            f"client {lab.client.address} {lab.client.address6}   ip netns exec {lab.client.name} ...\n"
            f"edge   {lab.edge.address} {lab.edge.address6}   ip netns exec {lab.edge.name} ...\n"
            "Type help; Ctrl-D takes it all down."
        )

    def onecmd(self, line: str) -> bool:
        """Say what went wrong and go on: a mistyped line must not take the lab down."""
        try:
            return super().onecmd(line)
        except (ValueError, TypeError, LabError, WanGoneError, OSError) as error:
            print(f"! {error}")
            return False

    def emptyline(self) -> bool:
        """Nothing; the base class would repeat the last command."""
        return False

    def do_client(self, line: str) -> None:
        """client [COMMAND]: run a line of shell in the client, or a shell; with & at its end in the background."""
        self._run(self._lab.client, line)

    def do_edge(self, line: str) -> None:
        """edge [COMMAND]: the same in the edge."""
        self._run(self._lab.edge, line)

    def _run(self, host: Host, line: str) -> None:
        line = line.strip() or f"exec {os.environ.get('SHELL', '/bin/sh')}"
        if line.endswith("&"):
            print(f"pid {start(self._lab, host, 'exec ' + line[:-1]).pid}")
        elif code := wait(start(self._lab, host, line)):
            print(f"! exit status {code}")

    def do_set(self, line: str) -> None:
        """set [up|down] NAME=VALUE ...: change the link, e.g. set up loss=0.01 rate_mbit=none blackhole=on"""
        words = shlex.split(line)
        direction = cast("Direction", words.pop(0)) if words and words[0] in get_args(Direction) else "both"
        if not words or not all("=" in word for word in words):
            raise ValueError(f"NAME=VALUE wanted; the names are {', '.join(Settings.__annotations__)}")
        changes = {name: parse_value(value) for name, _, value in (word.partition("=") for word in words)}
        self._lab.link.set(direction, **cast("Settings", changes))

    def do_stats(self, _line: str) -> None:
        """stats: the counters of both directions"""
        show_stats(self._lab)

    def do_move(self, line: str) -> None:
        """move [ADDRESS]: give the client another address"""
        self._lab.move_client(line.strip() or None)
        print(f"client {self._lab.client.address} {self._lab.client.address6}")

    def do_rebind(self, _line: str) -> None:
        """rebind: have every UDP flow of the client come from another port"""
        self._lab.nat_rebind()

    def do_quit(self, _line: str) -> bool:
        """quit: take it all down (Ctrl-D too)"""
        return True

    def do_EOF(self, _line: str) -> bool:  # noqa: N802  # the name that the base class looks for
        """The end of the input."""
        print()
        return True


def main(arguments: Sequence[str]) -> int:
    """Start a lab and run what was asked for in it; the foreground command's status is returned."""
    options = vars(parse_arguments(arguments))
    client, edge, nat = options.pop("client"), options.pop("edge"), options.pop("nat")
    if lack := missing():
        print(f"netlab: {lack}", file=sys.stderr)
        return 1
    settings = {name: value for name, value in options.items() if value is not None}
    try:
        with Lab(nat=nat, **cast("Settings", settings)) as lab:
            if client is None and edge is None:
                Prompt(lab).cmdloop()
                return 0
            background = start(lab, lab.edge, edge) if client is not None and edge is not None else None
            foreground = start(lab, lab.client, client) if client is not None else start(lab, lab.edge, edge)
            code = wait(foreground)
            if background is not None:
                background.terminate()
            show_stats(lab)
            return code
    except ValueError as error:
        print(f"netlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130  # as a shell reports it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
