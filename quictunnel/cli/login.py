"""``quictunnel login``, ``logout`` and ``profiles``: store the credential of an edge, remove it, list all."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Final

import click

from quictunnel.cli.common_options import JSON, LOG_LEVEL
from quictunnel.config.credential import MAX_LENGTH, Credential, decode
from quictunnel.config.profiles import DEFAULT, Profiles
from quictunnel.errors import ConfigError, Error
from quictunnel.shared.command_line import Command
from quictunnel.shared.output import escape_unprintable
from quictunnel.shared.paths import default_config_file

if TYPE_CHECKING:
    from collections.abc import Sequence

PROFILE: Final = click.option(
    "--profile", "name", metavar="NAME", default=DEFAULT, show_default=True, help="name for this edge"
)
NOBODY: Final = 1
"""Exit status of a logout where nothing was stored."""


@click.command(
    cls=Command,
    help="Store the credential of an edge, so that all commands and programs of this user find the edge. Without "
    "an argument, ask for it without showing it; - reads standard input. The edge is asked whether it accepts the "
    "credential before it is stored.",
    epilog="""\
Examples:
  quictunnel login                       then paste the credential (qt1...) that the edge printed
  quictunnel login --profile work        a second edge: `quictunnel http 8000 --profile work`
  quictunnel login - < credential.txt    for scripts
  quictunnel profiles                    list what is stored, without the secrets

A credential is a secret like a password. As an argument, all users of this machine can read it while \
the command runs, and the shell keeps it in its history: prefer the prompt, or -. In a container, set \
QUICTUNNEL_CREDENTIAL instead. It is stored in the folder profiles beside your config file (on Linux \
~/.config/quictunnel/profiles), readable by you alone.
""",
)
@click.argument(
    "credential",
    nargs=-1,
    metavar="[CREDENTIAL|-]",
    help="the long string qt1... without dots; qt1.KEY.SECRET, with two dots, is only a token",
)
@PROFILE
@click.option("--no-check", is_flag=True, help="store it without asking the edge, which may be off")
@JSON
@LOG_LEVEL
def login(credential: tuple[str, ...], name: str, *, no_check: bool, as_json: bool) -> None:
    """Run ``quictunnel login``."""
    profiles = Profiles()
    profiles.path_of(name)  # a wrong name is reported before the prompt
    try:
        found = decode(read_credential(credential))
        software = None if no_check else check(found)
    except Error as error:
        advice = f"{error.advice} Nothing was stored.".strip()
        raise type(error)(error.message, advice=advice) from None
    path = profiles.write(name, found)
    if as_json:
        event = {"event": "login", "profile": name, "edge": found.addresses[0], "checked": software is not None}
        print(json.dumps(event | {"file": str(path)}))
        return
    about = "not checked" if software is None else f"which runs {escape_unprintable(software).replace('/', ' ')}"
    use = "" if name == DEFAULT else f" --profile {name}"
    print(f"Logged in to the edge at {found.addresses[0]} ({about}); stored in {path}.")
    print(f"Try:  quictunnel http 8000{use}")
    for note in notes(name):
        print(note, file=sys.stderr)


@click.command(
    cls=Command,
    help="Remove the stored credential of an edge from this machine. Its token stays valid: the edge's operator "
    "revokes it.",
    epilog="""\
Examples:
  quictunnel logout                    the edge of `quictunnel login`
  quictunnel logout --profile work     that of `quictunnel login --profile work`
""",
)
@PROFILE
def logout(name: str) -> int:
    """Run ``quictunnel logout`` and return its exit status."""
    if not Profiles().remove(name):
        print(f"No credential is stored as profile {name}; `quictunnel profiles` lists them.", file=sys.stderr)
        return NOBODY
    print(f"The credential of profile {name} is removed from this machine. Its token stays valid until the edge's")
    print("operator revokes it.")
    return 0


@click.command(
    cls=Command,
    help="List the edges that `quictunnel login` has stored, without their secrets.",
    epilog="""\
Examples:
  quictunnel profiles           name, address and certificate authority of each edge
  quictunnel profiles --json    one JSON object a line
""",
)
@JSON
def profiles(*, as_json: bool) -> None:
    """Run ``quictunnel profiles``."""
    stored = Profiles()
    rows = [(name, stored.read(name)) for name in stored.names()]
    found = [(name, credential) for name, credential in rows if credential is not None]
    if as_json:
        for name, credential in found:
            pin = credential.pin.hex() or None
            print(json.dumps({"profile": name, "edges": credential.addresses, "authority": pin}))
        return
    if not found:
        print("No edge is stored; `quictunnel login` stores one.", file=sys.stderr)
        return
    width = max(len(name) for name, _ in found)
    for name, credential in found:
        authority = f"authority {credential.pin[:8].hex()}..." if credential.pin else "a public authority"
        print(f"{name:{width}}  {', '.join(credential.addresses)}  {authority}")


def read_credential(words: Sequence[str]) -> str:
    """Return the text of a credential: the argument, standard input, or what the user types.

    Raises:
        click.UsageError: there is more than one argument.
        ConfigError: the input is empty or too long.
    """
    if len(words) > 1:
        raise click.UsageError(
            f"A credential is one word, and this one was broken into {len(words)}: paste it at the prompt of "
            "`quictunnel login`.",
            click.get_current_context(),
        )
    argument = words[0] if words else None
    if argument not in (None, "-"):
        return argument
    if argument is None and sys.stdin is not None and sys.stdin.isatty():
        return str(click.prompt("Credential (qt1..., not shown)", hide_input=True, prompt_suffix=": ", err=True))
    if sys.stdin is None:
        raise ConfigError("There is no standard input to read the credential from.")
    text = sys.stdin.read(2 * MAX_LENGTH + 1)
    if not text.strip():
        raise ConfigError("Standard input has no credential: paste or pipe the string that begins with qt1.")
    return text


def check(credential: Credential) -> str:
    """Ask the edge whether it accepts a credential. Return the name of its software.

    Raises:
        Error: it does not, or cannot be reached.
    """
    # Imported here, because --help and logout do not need them.
    import asyncio  # noqa: PLC0415 - see above

    from quictunnel.config.client_config import client_config_of  # noqa: PLC0415 - see above
    from quictunnel.doctor.edge import greet_edge  # noqa: PLC0415 - see above

    return asyncio.run(greet_edge(client_config_of(credential=credential.encode())))


def notes(name: str) -> list[str]:
    """Return sentences about other settings that name an edge as well."""
    found = [
        f"Note: {variable} is set and precedes stored profiles: unset it, or use --profile {name}."
        for variable in ("QUICTUNNEL_CREDENTIAL", "QUICTUNNEL_EDGE")
        if os.environ.get(variable)
    ]
    path = default_config_file()
    if name == DEFAULT and path.exists():
        found.append(f"Note: the edge in {path} is not used while there is a profile {DEFAULT}.")
    return found
