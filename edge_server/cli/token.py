"""``python -m edge_server token ...``: create, list, show and revoke tokens. The edge may be running."""

from __future__ import annotations

import json
import re
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from edge_server.auth.permissions import Permissions
from edge_server.auth.token_store import MAX_NOTE, TokenStore
from edge_server.cli.common import EXIT_UNKNOWN, QUERY, format_time, print_table
from edge_server.storage.state_dir import StateDir
from quictunnel.shared.address import parse_ports
from quictunnel.shared.command_line import Group
from quictunnel.wire.labels import domain_validation_error, validation_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from edge_server.auth.token_store import TokenEntry

RATE_UNITS: Final = {"": 1, "k": 1000, "M": 1_000_000, "G": 1_000_000_000}
"""Factors of the suffixes of a rate."""
MIN_BANDWIDTH: Final = 1000
"""Bytes a second, below which no visitor's program works."""
MAX_NAMES: Final = 100
"""Names, and domains, of one token."""
COUNT: Final = click.IntRange(0, 10**9 - 1)
TIME_UNITS: Final = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
"""Seconds of the suffixes of a duration."""


def _ports(text: str) -> range:
    return range(0) if text == "none" else parse_ports(text, what="--tcp-ports")


def _listed(text: str, validate: Callable[[str], str | None]) -> tuple[str, ...]:
    """Return the different parts of a list with commas. ``validate`` says what is wrong with one."""
    parts = tuple(dict.fromkeys(text.split(",")))
    for part in parts:
        if (wrong := validate(part)) is not None:
            raise click.BadParameter(f"{part!r} {wrong}.")
    if len(parts) > MAX_NAMES:
        raise click.BadParameter(f"at most {MAX_NAMES} are possible.")
    return parts


def _names(text: str) -> tuple[str, ...]:
    return () if text == "none" else _listed(text, lambda name: validation_error(name.replace("*", "x")))


def _domains(text: str) -> tuple[str, ...] | None:
    if text in ("none", "all"):
        return () if text == "none" else None
    return _listed(text.lower(), lambda domain: domain_validation_error(domain.removeprefix("*.")))


def _bandwidth(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,9})([kMG]?)", text)
    rate = int(found[1]) * RATE_UNITS[found[2]] if found else 0
    if rate < MIN_BANDWIDTH:
        raise click.BadParameter(f"{text!r} is not a rate of at least {MIN_BANDWIDTH} bytes a second.")
    return rate


def _expiry(text: str) -> int:
    """Return the end of a duration, or the beginning of a day, in seconds since the epoch."""
    now = int(time.time())
    if found := re.fullmatch(r"([0-9]{1,5})([hdw])", text):
        return now + int(found[1]) * TIME_UNITS[found[2]]
    try:
        expiry = int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a duration (12h, 30d, 8w) nor a day (2027-01-31)."
        ) from None
    if expiry <= now:
        raise click.BadParameter(f"{text} is in the past.")
    return expiry


KEY: Final = click.argument("key", help="as shown by `list`")


@click.group(
    cls=Group,
    no_args_is_help=False,
    help="The tokens with which clients authenticate. A change takes effect in a running edge within a second: "
    "revoking a token ends its sessions and their visitors.",
)
def token() -> None:
    """Group the commands."""


@token.command(help="Create a token and print it. It cannot be shown again: only a hash is stored.")
@click.option("--note", default="", metavar="TEXT", help=f"a note on its purpose, up to {MAX_NOTE} characters")
@click.option("--tunnels", type=COUNT, metavar="N", help="tunnels at once, over all its clients")
@click.option("--visitors", type=COUNT, metavar="N", help="visitors at once, over all its tunnels")
@click.option(
    "--names",
    type=_names,
    metavar="A,B*|none",
    help="names that it may request, each exact (which reserves it for this token) or with *; none: only random "
    "ones",
)
@click.option(
    "--domains",
    type=_domains,
    metavar="A,*.B|all|none",
    default="none",
    show_default=True,
    help="whole domains that it may bind, each exact or as *.example.org for all names below",
)
@click.option("--tcp-ports", type=_ports, metavar="A-B|none", help="public TCP ports that it may bind")
@click.option(
    "--bandwidth",
    type=_bandwidth,
    metavar="RATE",
    help="bytes a second over all its visitors, in each direction (500k, 10M, 1G)",
)
@click.option(
    "--expires",
    type=_expiry,
    metavar="WHEN",
    help="after a duration (12h, 30d, 8w), or on a day (2027-01-31, UTC)",
)
@QUERY
def create(note: str, state_dir: Path, *, as_json: bool, **permissions: Any) -> None:
    """Create a token."""
    now = int(time.time())
    secret, entry = _open(state_dir).create(Permissions(**permissions), note, now)
    # Only the token on standard output, for scripts; the explanation on standard error.
    print(json.dumps({"token": secret} | _as_json(entry, now)) if as_json else secret)
    print(f"Token {entry.key} is created; it is not shown again. Clients: QUICTUNNEL_TOKEN.", file=sys.stderr)


@token.command("list", help="List all tokens, revoked ones included.")
@QUERY
def list_tokens(state_dir: Path, *, as_json: bool) -> None:
    """Print all tokens."""
    now = int(time.time())
    entries = _open(state_dir).entries()
    if as_json:
        print(json.dumps([_as_json(entry, now) for entry in entries]))
    else:
        _print_table(entries, now)


@token.command(help="Show one token.")
@KEY
@QUERY
def show(key: str, state_dir: Path, *, as_json: bool) -> int:
    """Print one token and return the exit status."""
    return _show(_open(state_dir), key, None, as_json=as_json)


@token.command(help="Revoke a token for good; ends its sessions.")
@KEY
@QUERY
def revoke(key: str, state_dir: Path, *, as_json: bool) -> int:
    """Revoke a token and return the exit status."""
    store = _open(state_dir)
    store.revoke(key, int(time.time()))
    return _show(store, key, f"Token {key} is revoked.", as_json=as_json)


def _open(state_dir: Path) -> TokenStore:
    StateDir(state_dir)
    return TokenStore(state_dir)


def _show(store: TokenStore, key: str, message: str | None, *, as_json: bool) -> int:
    """Print a token as JSON, or the message, or by default all that is known of the token."""
    now = int(time.time())
    entry = next((entry for entry in store.entries() if entry.key == key), None)
    if entry is None:
        print(f"edge_server token: there is no token {key!r}; `list` shows all tokens", file=sys.stderr)
        return EXIT_UNKNOWN
    fields = "\n".join(f"{name + ':':12} {value}" for name, value in _fields(entry, now).items())
    print(json.dumps(_as_json(entry, now)) if as_json else message or fields)
    return 0


def _print_table(entries: Sequence[TokenEntry], now: int) -> None:
    rows = [list(_fields(entry, now).values()) for entry in entries]
    if not rows:
        print("There is no token yet.", file=sys.stderr)
        return
    rows.insert(0, [name.upper() for name in _fields(entries[0], now)])
    print_table(rows)


def _fields(entry: TokenEntry, now: int) -> dict[str, str]:
    """Return the columns of the table, as text for people."""
    permissions = entry.permissions

    def or_all(value: int | None) -> str:
        return "all" if value is None else str(value)

    return {
        "key": entry.key,
        "state": entry.state(now),
        "tunnels": or_all(permissions.tunnels),
        "visitors": or_all(permissions.visitors),
        "names": "all" if permissions.names is None else ",".join(permissions.names) or "none",
        "domains": "all" if permissions.domains is None else ",".join(permissions.domains) or "none",
        "tcp ports": _shown_ports(permissions.tcp_ports),
        "bandwidth": "all" if permissions.bandwidth is None else f"{permissions.bandwidth / 1e6:g} MB/s",
        "created": format_time(entry.created),
        "expires": "never" if permissions.expires is None else format_time(permissions.expires),
        "note": "".join(letter if letter.isprintable() else "?" for letter in entry.note),
    }


def _as_json(entry: TokenEntry, now: int) -> dict[str, Any]:
    """Return a token as JSON-compatible values."""
    ports = entry.permissions.tcp_ports
    return {
        "key": entry.key,
        "state": entry.state(now),
        **asdict(entry.permissions),
        "tcp_ports": None if ports is None else _shown_ports(ports),
        "created": entry.created,
        "revoked": entry.revoked,
        "note": entry.note,
    }


def _shown_ports(ports: range | None) -> str:
    if ports is None:
        return "all"
    return f"{ports[0]}-{ports[-1]}" if ports else "none"
