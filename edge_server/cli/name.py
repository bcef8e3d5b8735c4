"""``quictunnel-edge name ...``: list the owners of names and ports, and withdraw them. The edge may be
running."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from edge_server.cli.common import EXIT_UNKNOWN, QUERY, format_time, print_table
from edge_server.storage.state_dir import StateDir
from edge_server.tunnels.claim_names import ClaimNameError, format_claim, parse_claim
from edge_server.tunnels.ownership import MAX_UNUSED_DAYS
from edge_server.tunnels.ownership_store import MAX_DAYS, OwnershipStore
from quictunnel.shared.command_line import Group

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_server.tunnels.ownership_store import Claim, HistoryEntry

DEFAULT_LINES: Final = 100
"""Lines of history by default."""


def _parse_name(text: str) -> str:
    try:
        return parse_claim(text)
    except ClaimNameError as error:
        raise click.BadParameter(str(error)) from None


NAME: Final = click.argument(
    "name", metavar="NAME|ADDRESS", type=_parse_name, help="as shown by `list`, or a tunnel's label"
)


@click.group(
    cls=Group,
    no_args_is_help=False,
    help="Names that clients requested, and TCP ports, written as :20022. Each belongs to the first token that "
    f"used it, until it was unused for {MAX_UNUSED_DAYS} days. Also bans: of names, of ports, and of addresses, "
    "from which no connection is accepted then. A change takes effect in a running edge within a second.",
)
def name() -> None:
    """Group the commands."""


@name.command("list", help="List names, ports and their owners.")
@QUERY
def list_names(state_dir: Path, *, as_json: bool) -> None:
    """Print all names."""
    _show(_open(state_dir).claims(), as_json=as_json)


@name.command(help="Make a name or port available to all tokens again; also lifts a ban.")
@NAME
@QUERY
def release(name: str, state_dir: Path, *, as_json: bool) -> int:
    """Release a name and return the exit status."""
    if not _open(state_dir).remove(name):
        shown = format_claim(name)
        print(f"edge_server name: {shown} has no owner; `list` shows the names that have one", file=sys.stderr)
        return EXIT_UNKNOWN
    _show_change(name, "released", as_json=as_json)
    return 0


@name.command(
    help="Ban a name, also a random one: its tunnel and visitors end, and it is not assigned again. Ban an "
    "address or a network: neither visitors nor clients may connect from there."
)
@NAME
@QUERY
def ban(name: str, state_dir: Path, *, as_json: bool) -> None:
    """Ban a name."""
    _open(state_dir).ban(name, int(time.time()))
    _show_change(name, "banned", as_json=as_json)


@name.command(
    help=f"List the owners of names by day (the last {MAX_DAYS} days with tunnels), random names included."
)
@click.argument("name", required=False, type=str.lower, help="only this name: a tunnel's label, or a domain")
@click.option("--owner", metavar="KEY", help="only this token")
@click.option("--last", metavar="N", type=int, default=DEFAULT_LINES, show_default=True, help="number of lines")
@QUERY
def history(name: str | None, owner: str | None, last: int, state_dir: Path, *, as_json: bool) -> None:
    """Print the history."""
    _show_history(_open(state_dir).history(name, last, owner), as_json=as_json)


def _open(state_dir: Path) -> OwnershipStore:
    StateDir(state_dir)
    return OwnershipStore(state_dir)


def _show_change(name: str, state: str, *, as_json: bool) -> None:
    name = format_claim(name)
    print(json.dumps({"name": name, "state": state}) if as_json else f"{name} is {state}.")


def _show(claims: Sequence[Claim], *, as_json: bool) -> None:
    if as_json:
        entries = [
            {
                "name": format_claim(claim.subject),
                "banned": claim.is_banned,
                "seen": claim.last_used,
                "owner": None if claim.is_banned else claim.owner,
            }
            for claim in claims
        ]
        print(json.dumps(entries))
        return
    if not claims:
        print("No name has an owner yet.", file=sys.stderr)
        return
    rows = [("NAME", "OWNER", "LAST SEEN")]
    for claim in claims:
        owner = "(banned)" if claim.is_banned else claim.owner
        rows.append((format_claim(claim.subject), owner, format_time(claim.last_used)))
    print_table(rows)


def _show_history(entries: Sequence[HistoryEntry], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries]))
        return
    rows = [("FROM", "UNTIL", "NAME", "OWNER", "EVENTS", "VISITORS", "PORT", "CLIENT")]
    for entry in entries:
        counts = {"held": entry.held, "released": entry.released, "banned": entry.banned}
        events = ", ".join(what if count == 1 else f"{what} {count}x" for what, count in counts.items() if count)
        rows.append(
            (
                format_time(entry.since),
                format_time(entry.until),
                entry.name or "(others)",
                entry.owner,
                events or "still held",
                str(entry.visitors),
                str(entry.port) if entry.port else "-",
                " to ".join(dict.fromkeys((entry.host, entry.last_host))) or "-",
            )
        )
    print_table(rows)
