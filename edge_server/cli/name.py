"""``python -m edge_server name ...``: list the owners of names and ports, and withdraw them. The edge may be
running."""

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

from edge_server.cli.common import EXIT_CONFIG, EXIT_UNKNOWN, build_parser, format_time, print_table
from edge_server.storage.state_dir import StateDir
from edge_server.tunnels.ownership import KEPT_DAYS
from edge_server.tunnels.ownership_store import MAX_DAYS, OwnershipStore
from quictunnel.errors import ConfigError
from quictunnel.shared.address import MAX_PORT
from quictunnel.wire.labels import MAX_LABEL, RANDOM_LABEL, domain_validation_error, validation_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_server.tunnels.ownership_store import Claim, HistoryEntry

DEFAULT_LINES: Final = 100
"""Lines of history by default."""
NETWORK_PREFIX: Final = "@"
"""Prefix of networks in the database."""


def _parser() -> argparse.ArgumentParser:
    parser, add = build_parser(
        "name",
        "Names that clients requested, and TCP ports, written as :20022. Each belongs to the first token that "
        f"used it, until it was unused for {KEPT_DAYS} days. Also bans: of names, of ports, and of addresses, "
        "from which no connection is accepted then. A change takes effect in a running edge within a second.",
    )
    add("list", "List names, ports and their owners.")
    for one in (
        add("release", "Make a name or port available to all tokens again; also lifts a ban."),
        add("ban", "Ban a name, also a random one: its tunnel and visitors end, and it is not assigned again. "
            "Ban an address or a network: neither visitors nor clients may connect from there."),
    ):  # fmt: skip
        one.add_argument(
            "name", metavar="NAME|ADDRESS", type=_parse_name, help="as shown by `list`, or a tunnel's label"
        )
    history = add(
        "history",
        f"List the owners of names by day (the last {MAX_DAYS} days with tunnels), random names included.",
    )
    history.add_argument(
        "name", metavar="NAME", nargs="?", type=str.lower, help="only this name: a tunnel's label, or a domain"
    )
    history.add_argument("--owner", metavar="KEY", help="only this token")
    history.add_argument(
        "--last", metavar="N", type=int, default=DEFAULT_LINES, help="number of lines (%(default)s)"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command. Return its exit status."""
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
    name = options.name.removeprefix(NETWORK_PREFIX)
    if options.command == "ban":
        store.ban(options.name, now)
        done = "banned"
    elif store.remove(options.name):
        done = "released"
    else:
        print(f"edge_server name: {name} has no owner; `list` shows the names that have one", file=sys.stderr)
        return EXIT_UNKNOWN
    print(json.dumps({"name": name, "state": done}) if options.json else f"{name} is {done}.")
    return 0


def _show(claims: Sequence[Claim], *, as_json: bool) -> None:
    if as_json:
        entries = [
            {
                "name": claim.what.removeprefix(NETWORK_PREFIX),
                "banned": claim.is_banned,
                "seen": claim.seen,
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
        rows.append((claim.what.removeprefix(NETWORK_PREFIX), owner, format_time(claim.seen)))
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
                events or "goes on",
                str(entry.visitors),
                str(entry.port) if entry.port else "-",
                " to ".join(dict.fromkeys((entry.host, entry.last_host))) or "-",
            )
        )
    print_table(rows)


def _parse_name(text: str) -> str:
    """Return a network, a port or a name as written in the database."""
    with contextlib.suppress(ValueError):
        return f"{NETWORK_PREFIX}{ip_network(text.removeprefix(NETWORK_PREFIX), strict=False)}"
    name = text.lower()
    is_port = re.fullmatch(":[1-9][0-9]{0,4}", text) and int(text[1:]) <= MAX_PORT
    is_name = (
        RANDOM_LABEL.fullmatch(name) or validation_error(name) is None or domain_validation_error(name) is None
    )
    if not is_port and not is_name:
        raise argparse.ArgumentTypeError(
            f"{text[:MAX_LABEL]!r} is neither a name nor a port (:20022) nor an address"
        )
    return name
