"""Generate the manual pages quictunnel(1) and quictunnel-edge(8) from the commands' own help.

``python docs/man.py --write`` updates them in ``docs/man``, as ``docs/tables.py --write`` does for the pages of
the same help; the wheel installs them in ``share/man``. A test fails
when they are out of date.
"""

from __future__ import annotations

import argparse
import os
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from edge_server.cli.commands import COMMANDS as EDGE_COMMANDS
from edge_server.config.command_line import edge_command
from edge_server.config.edge_config import OPTIONS
from edge_server.config.program_name import SCRIPT
from quictunnel.cli.main import PROGRAM
from quictunnel.cli.main import commands as client_commands
from quictunnel.shared.command_line import LazyGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH: Final = 72
"""Characters of a line of source, before it is escaped."""
MAN: Final = Path(__file__).parent / "man"
CLIENT_NAME: Final = "expose a local port to the world through an edge of your own"
EDGE_NAME: Final = "the public server of quictunnel"
CLIENT_FILES: Final = """\
QUICTUNNEL_EDGE, QUICTUNNEL_TOKEN and QUICTUNNEL_CA in the environment name the edge, the token and the
certificate authority. Without them an edge of the same user on this machine is found by itself."""
EDGE_FILES: Final = """\
Each option can be given as a variable (QUICTUNNEL_EDGE_SERVER_DOMAIN for --domain) or in the TOML file of
--config. The command line has precedence over the environment, and the environment over the file."""


class Page(NamedTuple):
    """One manual page."""

    name: str
    section: int
    text: str

    @property
    def path(self) -> Path:
        """The file of the page."""
        return MAN / f"{self.name}.{self.section}"


def pages() -> tuple[Page, Page]:
    """Return the manual pages of both programs."""
    # The help must not depend on the variables and the home directory of whoever generates it.
    saved, os.environ["HOME"] = os.environ.get("HOME"), "/root"
    try:
        return (
            Page(PROGRAM, 1, "\n".join(_client()) + "\n"),
            Page(SCRIPT, 8, "\n".join(_edge()) + "\n"),
        )
    finally:
        os.environ.pop("HOME")
        if saved is not None:
            os.environ["HOME"] = saved


def _client() -> Iterator[str]:
    context = client_commands.make_context(PROGRAM, [])
    yield from _head(PROGRAM, 1, CLIENT_NAME)
    yield f".B {_text(PROGRAM)}\n.I COMMAND\n.RI [ ARGUMENTS ]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(client_commands.help or "")
    yield ".SH OPTIONS"
    yield from _options(client_commands, context)
    yield ".SH COMMANDS"
    yield from _commands(client_commands, context)
    yield from _epilog(client_commands.epilog or "")
    yield ".SH ENVIRONMENT"
    yield from _paragraphs(CLIENT_FILES)
    yield f'.SH "SEE ALSO"\n.BR {_text(SCRIPT)} (8)'


def _edge() -> Iterator[str]:
    command = edge_command(OPTIONS)
    context = click.Context(command, info_name=SCRIPT)
    group = LazyGroup(SCRIPT, EDGE_COMMANDS)
    yield from _head(SCRIPT, 8, EDGE_NAME)
    yield f".B {_text(SCRIPT)}\n.RI [ OPTIONS ]\n.br\n.B {_text(SCRIPT)}\n.I COMMAND\n.RI [ ARGUMENTS ]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(command.help or "")
    yield ".SH OPTIONS"
    yield from _options(command, context)
    yield ".SH COMMANDS"
    yield from _commands(group, click.Context(group, info_name=SCRIPT))
    yield from _epilog(command.epilog or "")
    yield ".SH ENVIRONMENT"
    yield from _paragraphs(EDGE_FILES)
    yield f'.SH "SEE ALSO"\n.BR {_text(PROGRAM)} (1)'


def _head(name: str, section: int, summary: str) -> Iterator[str]:
    # Without a date: the page would be out of date on each day on which nothing has changed.
    yield f'.TH {name.upper()} {section} "" quictunnel\n.SH NAME\n{_text(name)} \\- {_text(summary)}\n.SH SYNOPSIS'


def _commands(group: click.Group, parent: click.Context) -> Iterator[str]:
    """Yield the commands of a group, and those of the groups within it, each under its full name."""
    for name in group.list_commands(parent):
        command = group.load(name) if isinstance(group, LazyGroup) else group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, parent=parent, info_name=name)
        yield f'.SS "{_text(" ".join([context.command_path, *command.collect_usage_pieces(context)]))}"'
        yield from _paragraphs(command.help or command.short_help or "")
        yield from _options(command, context)
        if command.epilog:
            yield ".PP"
            yield from _verbatim(command.epilog)
        if isinstance(command, click.Group):
            yield from _commands(command, context)


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for param in command.get_params(context):
        if record := param.get_help_record(context):
            yield f".TP\n.B {_text(record[0])}\n{_wrapped(record[1])}"


def _epilog(text: str) -> Iterator[str]:
    """Yield the end of a help page. A part whose first line ends with a colon becomes a section."""
    for part in text.strip("\n").split("\n\n"):
        title, _, body = part.partition("\n")
        if title.endswith(":") and body:
            yield f'.SH "{_text(title.removesuffix(":").upper())}"'
            yield from _verbatim(body)
        else:
            yield ".PP"
            yield from _paragraphs(part)


def _verbatim(text: str) -> Iterator[str]:
    yield ".nf"
    for line in text.strip("\n").splitlines():
        yield _text(line) if line else ".sp"
    yield ".fi"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(part for part in text.replace("\b\n", "").split("\n\n") if part.strip()):
        if number:
            yield ".PP"
        yield _wrapped(paragraph)


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(_text(line) for line in lines)


def _text(text: str) -> str:
    """Escape a line for roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return re.sub(r"^([.'])", r"\\&\1", escaped)


def write() -> None:
    """Update the files in docs/man."""
    for page in pages():
        page.path.write_text(page.text)


def main() -> None:
    """Print the pages, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="update the files in docs/man")
    if parser.parse_args().write:
        write()
    else:
        print(*(page.text for page in pages()), sep="\n")  # noqa: T201 - what was asked for


if __name__ == "__main__":
    main()
