"""``python -m edge_server name ...``: whose names and ports are, and withdraw them. The edge may run meanwhile."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
from dataclasses import asdict
from ipaddress import ip_network
from typing import TYPE_CHECKING, Final

from edge_server.cli.common import EXIT_CONFIG, EXIT_UNKNOWN, build_parser, moment, print_table
from edge_server.storage.state_dir import StateDir
from edge_server.tunnels.ownership import KEPT_DAYS
from edge_server.tunnels.ownership_store import MAX_DAYS, OwnershipStore
from quictunnel.errors import ConfigError
from quictunnel.shared.address import MAX_PORT
from quictunnel.wire.labels import MAX_LABEL, RANDOM_LABEL, domain_validation_error, validation_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_server.tunnels.ownership_store import Claim, HistoryEntry

SHOWN: Final = 100
NETWORK: Final = "@"
"""Before networks in the database."""


def _parser() -> argparse.ArgumentParser:
    parser, add = build_parser(
        "name",
        "The names that clients asked for, and the TCP ports, as :20022. Each belongs to the token "
        f"that had it first, until nobody has used it for {KEPT_DAYS} days. And what is withdrawn from everybody: "
        "names, ports, and addresses from which nobody may come. What is changed here holds for a running edge "
        "within a second.",
    )
    add("list", "Whose they are.")
    for one in (
        add("release", "Let anybody have one again; also one that is banned."),
        add("ban", "Withdraw a name, random ones too: its tunnel and visitors end, and nobody gets it again. "
            "Of an address or a network: neither visitors nor clients come in from there."),
    ):  # fmt: skip
        one.add_argument(
            "name", metavar="NAME|ADDRESS", type=_what, help="as the list has it, or a tunnel's label"
        )
    history = add(
        "history", f"Who held what on which day (the last {MAX_DAYS} days with tunnels), random names too."
    )
    history.add_argument(
        "name", metavar="NAME", nargs="?", type=str.lower, help="of this name alone: a tunnel's label, or a domain"
    )
    history.add_argument("--owner", metavar="KEY", help="of this token alone")
    history.add_argument("--last", metavar="N", type=int, default=SHOWN, help="so many lines (%(default)s)")
    return parser


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        StateDir(options.state_dir)
        return _run(options, OwnershipStore(options.state_dir), int(time.time()))
    except ConfigError as error:
        print(f"edge_server name: error: {error}", file=sys.stderr)
        return EXIT_CONFIG


def _run(options: argparse.Namespace, store: OwnershipStore, now: int) -> int:
    if options.command == "list":
        _show(store.claims(), as_json=options.json)
        return 0
    if options.command == "history":
        _show_history(store.history(options.name, options.last, options.owner), as_json=options.json)
        return 0
    name = options.name.removeprefix(NETWORK)
    if options.command == "ban":
        store.ban(options.name, now)
        done = "banned"
    elif store.remove(options.name):
        done = "released"
    else:
        print(f"edge_server name: {name} is nobody's; `list` shows what is somebody's", file=sys.stderr)
        return EXIT_UNKNOWN
    print(json.dumps({"name": name, "state": done}) if options.json else f"{name} is {done}.")
    return 0


def _show(claims: Sequence[Claim], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([{"name": claim.what.removeprefix(NETWORK), "banned": claim.is_banned, "seen": claim.seen,
                           "owner": None if claim.is_banned else claim.owner} for claim in claims]))  # fmt: skip
        return
    if not claims:
        print("No name is anybody's yet.", file=sys.stderr)
        return
    rows = [("NAME", "OWNER", "LAST SEEN")]
    for claim in claims:
        owner = "(banned)" if claim.is_banned else claim.owner
        rows.append((claim.what.removeprefix(NETWORK), owner, moment(claim.seen)))
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
                moment(entry.since),
                moment(entry.until),
                entry.name or "(others)",
                entry.owner,
                events or "goes on",
                str(entry.visitors),
                str(entry.port) if entry.port else "-",
                " to ".join(dict.fromkeys((entry.host, entry.last_host))) or "-",
            )
        )
    print_table(rows)


def _what(text: str) -> str:
    """A network, a port or a name, as the database has them."""
    with contextlib.suppress(ValueError):
        return f"{NETWORK}{ip_network(text.removeprefix(NETWORK), strict=False)}"
    name = text.lower()
    is_port = re.fullmatch(":[1-9][0-9]{0,4}", text) and int(text[1:]) <= MAX_PORT
    is_name = (
        RANDOM_LABEL.fullmatch(name) or validation_error(name) is None or domain_validation_error(name) is None
    )
    if not is_port and not is_name:
        raise argparse.ArgumentTypeError(f"{text[:MAX_LABEL]!r} is no name, no port (:20022) and no address")
    return name
