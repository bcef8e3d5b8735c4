"""``python -m edge_server token ...``: create, list, show and revoke tokens. The edge may be running."""

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
from edge_server.cli.common import EXIT_CONFIG, EXIT_UNKNOWN, build_parser, format_time, print_table
from edge_server.config.edge_config import parse_ports
from edge_server.storage.state_dir import StateDir
from quictunnel.errors import ConfigError
from quictunnel.wire.labels import domain_validation_error, validation_error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_server.auth.token_store import TokenEntry

RATE_UNITS: Final = {"": 1, "k": 1000, "M": 1_000_000, "G": 1_000_000_000}
"""Factors of the suffixes of a rate."""
MIN_BANDWIDTH: Final = 1000
"""Bytes a second, below which no visitor's program works."""
MAX_NAMES: Final = 100
"""Names, and domains, of one token."""
TIME_UNITS: Final = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
"""Seconds of the suffixes of a duration."""


def _parser() -> argparse.ArgumentParser:
    parser, add = build_parser(
        "token",
        "The tokens with which clients authenticate. A change takes effect in a running edge within a second: "
        "revoking a token ends its sessions and their visitors.",
    )
    create = add("create", "Create a token and print it. It cannot be shown again: only a hash is stored.")
    option = create.add_argument
    option("--note", default="", help=f"a note on its purpose, up to {MAX_NOTE} characters")
    option("--tunnels", type=_count, metavar="N", help="tunnels at once, over all its clients")
    option("--visitors", type=_count, metavar="N", help="visitors at once, over all its tunnels")
    option("--names", type=_names, metavar="A,B*|none", help="names that it may request, each exact (which "
           "reserves it for this token) or with *; none: only random ones")  # fmt: skip
    option("--domains", type=_domains, default=(), metavar="A,*.B|all|none", help="whole domains that it may "
           "bind, each exact or as *.example.org for all names below (default: none)")  # fmt: skip
    option("--tcp-ports", type=_ports, metavar="A-B|none", help="public TCP ports that it may bind")
    option("--bandwidth", type=_bandwidth, metavar="RATE", help="bytes a second over all its visitors, "
           "in each direction (500k, 10M, 1G)")  # fmt: skip
    option("--expires", metavar="WHEN", help="after a duration (12h, 30d, 8w), or on a day (2027-01-31, UTC)")
    add("list", "List all tokens, revoked ones included.")
    for one in (add("show", "Show one token."), add("revoke", "Revoke a token for good; ends its sessions.")):
        one.add_argument("key", metavar="KEY", help="as shown by `list`")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the command. Return its exit status."""
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
            expires=_parse_expiry(options.expires, now) if options.expires else None,
        )
        token, entry = store.create(rights, options.note, now)
        # Only the token on standard output, for scripts; the explanation on standard error.
        print(json.dumps({"token": token} | _as_json(entry, now)) if options.json else token)
        print(f"Token {entry.key} is created; it is not shown again. Clients: QUICTUNNEL_TOKEN.", file=sys.stderr)
        return 0
    if options.command == "revoke" and not store.revoke(options.key, now):
        return _unknown(options.key)
    entries = store.entries()
    if options.command != "list":
        entries = [entry for entry in entries if entry.key == options.key]
        if not entries:
            return _unknown(options.key)
    if options.json:
        found = [_as_json(entry, now) for entry in entries]
        print(json.dumps(found if options.command == "list" else found[0]))
    elif options.command == "show":
        print("\n".join(f"{name + ':':12} {value}" for name, value in _fields(entries[0], now).items()))
    elif options.command == "revoke":
        print(f"Token {options.key} is revoked.")
    else:
        _print_table(entries, now)
    return 0


def _unknown(key: str) -> int:
    print(f"edge_server token: there is no token {key!r}; `list` shows all tokens", file=sys.stderr)
    return EXIT_UNKNOWN


def _print_table(entries: Sequence[TokenEntry], now: int) -> None:
    rows = [list(_fields(entry, now).values()) for entry in entries]
    if not rows:
        print("There is no token yet.", file=sys.stderr)
        return
    rows.insert(0, [name.upper() for name in _fields(entries[0], now)])
    print_table(rows)


def _fields(entry: TokenEntry, now: int) -> dict[str, str]:
    """Return the columns of the table, as text for people."""
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
        "created": format_time(entry.created),
        "expires": "never" if rights.expires is None else format_time(rights.expires),
        "note": "".join(letter if letter.isprintable() else "?" for letter in entry.note),
    }


def _as_json(entry: TokenEntry, now: int) -> dict[str, Any]:
    """Return a token as JSON-compatible values."""
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
    rate = int(found[1]) * RATE_UNITS[found[2]] if found else 0
    if rate < MIN_BANDWIDTH:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate of at least {MIN_BANDWIDTH} bytes a second")
    return rate


def _parse_expiry(text: str, now: int) -> int:
    """Parse a duration or a day; return seconds since the epoch. Raises ConfigError."""
    if found := re.fullmatch(r"([0-9]{1,5})([hdw])", text):
        return now + int(found[1]) * TIME_UNITS[found[2]]
    try:
        expiry = int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise ConfigError(
            f"--expires {text!r} is neither a duration (12h, 30d, 8w) nor a day (2027-01-31)."
        ) from None
    if expiry <= now:
        raise ConfigError(f"--expires {text} is in the past.")
    return expiry
