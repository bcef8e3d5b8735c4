"""``quictunnel-edge name ...``: list the owners of names and ports, release and ban them. The edge may
be running."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from edge_server.auth.token import operator_key
from edge_server.cli.common import EXIT_UNKNOWN, QUERY, format_time, print_table
from edge_server.config.program_name import error_name
from edge_server.storage.state_dir import StateDir
from edge_server.tunnels.claim_names import ClaimNameError, format_claim, kind_of, label_below, parse_claim
from edge_server.tunnels.ownership import MAX_UNUSED_DAYS
from edge_server.tunnels.ownership_store import MAX_DAYS, OwnershipStore
from quictunnel.shared.command_line import Group

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_server.tunnels.ownership_store import Claim, HistoryEntry

DEFAULT_LINES: Final = 100
"""Lines of history by default."""
OPERATOR: Final = "operator"
"""Word for the owner whose token is the operator's, which ``token list`` does not show."""
_METAVAR: Final = "NAME|ADDRESS"

NAME: Final = click.argument(
    "name",
    metavar=_METAVAR,
    help="a name (my-app), a TCP port (:20022), a domain, or an IP address or network",
)


@click.group(
    cls=Group,
    no_args_is_help=False,
    help="Names that clients requested, and TCP ports, written as :20022. Each belongs to the first token that "
    f"used it, until it was unused for {MAX_UNUSED_DAYS} days. Also bans of names, ports and addresses: no "
    "connection is accepted from a banned address. A change takes effect in a running edge within a second.",
)
def name() -> None:
    """Group the commands."""


@name.command("list", help="List names, ports and their owners.")
@QUERY
def list_names(state_dir: Path, *, as_json: bool) -> None:
    """Print all names."""
    _show(_open(state_dir).claims(), _operator_key(state_dir), as_json=as_json)


@name.command(
    help="Make a name or port available to all tokens again; also lifts the ban of a name, port or address."
)
@NAME
@QUERY
def release(name: str, state_dir: Path, *, as_json: bool) -> int:
    """Release a name and return the exit status."""
    store = _open(state_dir)
    name = _subject(name, store, state_dir)
    if not store.remove(name):
        problem = f"{format_claim(name)} has no owner; `list` shows the names that have one"
        print(f"{error_name()} name: error: {problem}", file=sys.stderr)
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
    store = _open(state_dir)
    name = _subject(name, store, state_dir)
    store.ban(name, int(time.time()))
    _show_change(name, "banned", as_json=as_json)


@name.command(
    help=f"List the owners of names by day (the last {MAX_DAYS} days with tunnels), random names included."
)
@click.argument("name", required=False, type=str.lower, help="only this name (my-app), or this domain")
@click.option("--owner", metavar="KEY", help=f"only this token; {OPERATOR}: the operator's (file `token`)")
@click.option("--last", metavar="N", type=int, default=DEFAULT_LINES, show_default=True, help="number of lines")
@QUERY
def history(name: str | None, owner: str | None, last: int, state_dir: Path, *, as_json: bool) -> None:
    """Print the history."""
    store, operator = _open(state_dir), _operator_key(state_dir)
    if name is not None:
        name = label_below(StateDir(state_dir).domain(), name)
    if owner in (OPERATOR, f"({OPERATOR})"):
        owner = operator
    _show_history(store.history(name, last, owner), operator, as_json=as_json)


def _open(state_dir: Path) -> OwnershipStore:
    StateDir(state_dir)
    return OwnershipStore(state_dir)


def _subject(text: str, store: OwnershipStore, state_dir: Path) -> str:
    """Return the name as the database has it; of a host name below the edge's domain, its label.

    Raises BadParameter, also for a host name if it is unknown whether it is below that domain.
    """
    domain = StateDir(state_dir).domain()
    try:
        subject = parse_claim(text, domain)
    except ClaimNameError as error:
        raise click.BadParameter(str(error), param_hint=f"'{_METAVAR}'") from None
    is_host = kind_of(subject) == "name" and "." in subject
    if is_host and not domain and all(claim.subject != subject for claim in store.claims()):
        raise click.BadParameter(
            f"{text} may be below the edge's domain, which is not known before its first start: give the label "
            f"alone ({subject.partition('.')[0]}), or start the edge first.",
            param_hint=f"'{_METAVAR}'",
        )
    return subject


def _operator_key(state_dir: Path) -> str:
    """Return the key of the operator's token, by which it owns names; empty if there is none yet."""
    token = StateDir(state_dir).existing_token()
    return operator_key(token) if token else ""


def _show_owner(owner: str, operator: str) -> str:
    return f"({OPERATOR})" if owner and owner == operator else owner


def _show_change(name: str, state: str, *, as_json: bool) -> None:
    name = format_claim(name)
    if as_json:
        print(json.dumps({"name": name, "state": state}))
    elif name.isdecimal():
        print(f"The name {name} is {state} (a TCP port is written :{name}).")
    else:
        print(f"{name} is {state}.")


def _show(claims: Sequence[Claim], operator: str, *, as_json: bool) -> None:
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
        owner = "(banned)" if claim.is_banned else _show_owner(claim.owner, operator)
        rows.append((format_claim(claim.subject), owner, format_time(claim.last_used)))
    print_table(rows)


def _show_history(entries: Sequence[HistoryEntry], operator: str, *, as_json: bool) -> None:
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
                _show_owner(entry.owner, operator),
                events or "still held",
                str(entry.visitors),
                str(entry.port) if entry.port else "-",
                " to ".join(dict.fromkeys((entry.host, entry.last_host))) or "-",
            )
        )
    print_table(rows)
