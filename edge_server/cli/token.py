"""``python -m edge_server token ...``: make, list, show and revoke tokens. The edge may run meanwhile."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from edge_server.auth.permissions import Permissions
from edge_server.auth.token_store import MAX_NOTE, TokenStore
from edge_server.cli.common import EXIT_CONFIG, EXIT_UNKNOWN, build_parser, moment, print_table
from edge_server.config.edge_config import parse_ports
from edge_server.storage.state_dir import StateDir
from quictunnel.errors import ConfigError
from quictunnel.wire.labels import domain_validation_error, validation_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_server.auth.token_store import TokenEntry

MULTIPLES: Final = {"": 1, "k": 1000, "M": 1_000_000, "G": 1_000_000_000}
MIN_BANDWIDTH: Final = 1000
"""Below it nothing works that a visitor would recognise."""
MAX_NAMES: Final = 100
UNITS: Final = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


def _parser() -> argparse.ArgumentParser:
    parser, add = build_parser(
        "token",
        "The tokens that clients show to this edge. What is changed here holds for a running edge "
        "within a second: a token that is revoked ends its sessions and their visitors.",
    )
    create = add("create", "Make a token and print it: this once, because only a hash of it is kept.")
    option = create.add_argument
    option("--note", default="", help=f"whom or what it is for, up to {MAX_NOTE} characters")
    option("--tunnels", type=_count, metavar="N", help="tunnels at once, of all its clients together")
    option("--visitors", type=_count, metavar="N", help="visitors at once, of all its tunnels together")
    option("--names", type=_names, metavar="A,B*|none", help="the names that it may ask for, each exact (which "
           "keeps it from everybody else) or with *; none: only random ones")  # fmt: skip
    option("--domains", type=_domains, default=(), metavar="A,*.B|all|none", help="the whole domains that it may "
           "have, each exact or as *.example.org for all names below (default: none)")  # fmt: skip
    option("--tcp-ports", type=_ports, metavar="A-B|none", help="the public TCP ports that it may have")
    option("--bandwidth", type=_bandwidth, metavar="RATE", help="bytes a second of all its visitors together, "
           "each way (500k, 10M, 1G)")  # fmt: skip
    option("--expires", metavar="WHEN", help="after so long (12h, 30d, 8w), or on a day (2027-01-31, UTC)")
    add("list", "All tokens, the revoked ones included.")
    for one in (add("show", "One token."), add("revoke", "End a token, its sessions and visitors, for good.")):
        one.add_argument("key", metavar="KEY", help="as the list has it")
    return parser


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    options = _parser().parse_args(argv)
    try:
        StateDir(options.state_dir)
        return _run(options, TokenStore(options.state_dir), int(time.time()))
    except ConfigError as error:
        print(f"edge_server token: error: {error}", file=sys.stderr)
        return EXIT_CONFIG


def _run(options: argparse.Namespace, store: TokenStore, now: int) -> int:
    if options.command == "create":
        rights = Permissions(
            tunnels=options.tunnels,
            visitors=options.visitors,
            names=options.names,
            domains=options.domains,
            tcp_ports=options.tcp_ports,
            bandwidth=options.bandwidth,
            expires=_moment(options.expires, now) if options.expires else None,
        )
        token, entry = store.create(rights, options.note, now)
        # The token alone on standard output, for scripts; what a person wants to know beside it.
        print(json.dumps({"token": token} | _plain(entry, now)) if options.json else token)
        print(f"Token {entry.key} is made; it is shown this once. Clients: QUICTUNNEL_TOKEN.", file=sys.stderr)
        return 0
    if options.command == "revoke" and not store.revoke(options.key, now):
        return _unknown(options.key)
    entries = store.entries()
    if options.command != "list":
        entries = [entry for entry in entries if entry.key == options.key]
        if not entries:
            return _unknown(options.key)
    if options.json:
        found = [_plain(entry, now) for entry in entries]
        print(json.dumps(found if options.command == "list" else found[0]))
    elif options.command == "show":
        print("\n".join(f"{name + ':':12} {value}" for name, value in _fields(entries[0], now).items()))
    elif options.command == "revoke":
        print(f"Token {options.key} is revoked.")
    else:
        _print_table(entries, now)
    return 0


def _unknown(key: str) -> int:
    print(f"edge_server token: there is no token {key!r}; `list` shows what there is", file=sys.stderr)
    return EXIT_UNKNOWN


def _print_table(entries: Sequence[TokenEntry], now: int) -> None:
    rows = [list(_fields(entry, now).values()) for entry in entries]
    if not rows:
        print("There is no token yet.", file=sys.stderr)
        return
    rows.insert(0, [name.upper() for name in _fields(entries[0], now)])
    print_table(rows)


def _fields(entry: TokenEntry, now: int) -> dict[str, str]:
    """For people, in the order of the table's columns."""
    rights = entry.rights

    def or_all(value: int | None) -> str:
        return "all" if value is None else str(value)

    return {
        "key": entry.key,
        "state": entry.state(now),
        "tunnels": or_all(rights.tunnels),
        "visitors": or_all(rights.visitors),
        "names": "all" if rights.names is None else ",".join(rights.names) or "none",
        "domains": "all" if rights.domains is None else ",".join(rights.domains) or "none",
        "tcp ports": _shown_ports(rights.tcp_ports),
        "bandwidth": "all" if rights.bandwidth is None else f"{rights.bandwidth / 1e6:g} MB/s",
        "created": moment(entry.created),
        "expires": "never" if rights.expires is None else moment(rights.expires),
        "note": "".join(letter if letter.isprintable() else "?" for letter in entry.note),
    }


def _plain(entry: TokenEntry, now: int) -> dict[str, Any]:
    """For programs."""
    rights = entry.rights
    return {
        "key": entry.key,
        "state": entry.state(now),
        "tunnels": rights.tunnels,
        "visitors": rights.visitors,
        "names": rights.names,
        "domains": rights.domains,
        "tcp_ports": None if rights.tcp_ports is None else _shown_ports(rights.tcp_ports),
        "bandwidth": rights.bandwidth,
        "created": entry.created,
        "expires": rights.expires,
        "revoked": entry.revoked,
        "note": entry.note,
    }


def _shown_ports(ports: range | None) -> str:
    if ports is None:
        return "all"
    return f"{ports[0]}-{ports[-1]}" if ports else "none"


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return int(text)


def _ports(text: str) -> range:
    if text == "none":
        return range(0)
    try:
        return parse_ports("--tcp-ports", text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _names(text: str) -> tuple[str, ...]:
    if text == "none":
        return ()
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        wrong = validation_error(name.replace("*", "x")) if "*" in name else validation_error(name)
        if wrong is not None:
            raise argparse.ArgumentTypeError(f"{name!r} {wrong}")
    if len(names) > MAX_NAMES:
        raise argparse.ArgumentTypeError(f"at most {MAX_NAMES} names")
    return names


def _domains(text: str) -> tuple[str, ...] | None:
    if text in ("none", "all"):
        return () if text == "none" else None
    domains = tuple(dict.fromkeys(text.lower().split(",")))
    for domain in domains:
        if (wrong := domain_validation_error(domain.removeprefix("*."))) is not None:
            raise argparse.ArgumentTypeError(f"{domain!r} {wrong}")
    if len(domains) > MAX_NAMES:
        raise argparse.ArgumentTypeError(f"at most {MAX_NAMES} domains")
    return domains


def _bandwidth(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([kMG]?)", text)
    rate = int(found[1]) * MULTIPLES[found[2]] if found else 0
    if rate < MIN_BANDWIDTH:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate of at least {MIN_BANDWIDTH} bytes a second")
    return rate


def _moment(text: str, now: int) -> int:
    """Seconds since the epoch. Raises ConfigError."""
    if found := re.fullmatch(r"([0-9]{1,5})([hdw])", text):
        return now + int(found[1]) * UNITS[found[2]]
    try:
        moment = int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise ConfigError(f"--expires {text!r} is neither a time (12h, 30d, 8w) nor a day (2027-01-31).") from None
    if moment <= now:
        raise ConfigError(f"--expires {text} is over already.")
    return moment
