"""``quictunnel-edge token ...``: create, list, show, change and revoke tokens. The edge may be running."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource

from edge_server.auth.credentials import credential_of
from edge_server.auth.permission_texts import format_ports
from edge_server.auth.permissions import Permissions
from edge_server.auth.token import key_of, operator_key
from edge_server.auth.token_store import TokenStore
from edge_server.cli.common import EXIT_UNKNOWN, QUERY, format_time, print_table
from edge_server.cli.permission_options import permission_options
from edge_server.config.program_name import error_name
from edge_server.storage.state_dir import StateDir
from quictunnel.shared.address import parse_address
from quictunnel.shared.command_line import Group

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edge_server.auth.token_store import TokenEntry

KEY: Final = click.argument("key", help="as shown by `list`")


@click.group(
    cls=Group,
    no_args_is_help=False,
    help="The tokens with which clients authenticate. A change takes effect in a running edge within a second: "
    "revoking a token ends its sessions and their visitors.",
)
def token() -> None:
    """Group the commands."""


@token.command(
    help="Create a token and print its credential: one string (qt1...) with the edge's address, the fingerprint "
    "of its certificate authority and the token. Its user runs `quictunnel login` with it. It cannot be shown "
    "again: only a hash of the token is stored.",
)
@permission_options(is_change=False)
@click.option(
    "--edge",
    metavar="HOST:PORT",
    help="address of the edge's QUIC socket in the credential (default: its public address at its last start)",
)
@click.option("--token-only", is_flag=True, help="print the token alone, for QUICTUNNEL_TOKEN")
@QUERY
def create(
    note: str | None, edge: str | None, state_dir: Path, *, token_only: bool, as_json: bool, **permissions: Any
) -> None:
    """Create a token."""
    now = int(time.time())
    if edge is not None:
        parse_address(edge, what="--edge")  # before the token is created
    secret, entry = _open(state_dir).create(Permissions(**permissions), note or "", now)
    credential = None if token_only else credential_of(state_dir, secret, edge)
    # Only the credential on standard output, for scripts; the explanation on standard error.
    if as_json:
        print(json.dumps({"token": secret, "credential": credential} | _as_json(entry, now)))
    else:
        print(credential or secret)
    print(_explanation(entry, has_credential=credential is not None, token_only=token_only), file=sys.stderr)


def _explanation(entry: TokenEntry, *, has_credential: bool, token_only: bool) -> str:
    """Return what a user does with the output of ``create``."""
    created = f"The token with the key {entry.key} is created; it is not shown again."
    if has_credential:
        return (
            f"{created} Give its user this credential, which is a secret: `quictunnel login` asks for it, and "
            "programs in containers read it from QUICTUNNEL_CREDENTIAL."
        )
    if token_only:
        return f"{created} Clients: QUICTUNNEL_TOKEN, with QUICTUNNEL_EDGE and QUICTUNNEL_CA."
    return (
        f"{created} This is the token alone, for QUICTUNNEL_TOKEN, because the edge's public address is not "
        "known: start the edge (with --public-host or --domain if it listens on all interfaces), or give --edge "
        "HOST:PORT, to get a credential."
    )


@token.command(
    "list", help="List all tokens, revoked ones included. The operator's token (file `token`) is not among them."
)
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
    return _show(state_dir, key, None, as_json=as_json)


@token.command(
    help="Change the note or the permissions of a token; those without an option stay as they are. A running edge "
    "applies the change within a second: its clients stay connected. Open tunnels that the token no "
    "longer permits are closed, with their visitors. If there are more than a new limit, the newest are closed.",
)
@KEY
@permission_options(is_change=True)
@QUERY
@click.pass_context
def change(
    context: click.Context, /, key: str, note: str | None, state_dir: Path, *, as_json: bool, **permissions: Any
) -> int:
    """Change a token and return the exit status."""
    is_default = ParameterSource.DEFAULT
    given = {
        name: value for name, value in permissions.items() if context.get_parameter_source(name) != is_default
    }
    if not given and note is None:
        raise click.UsageError("Nothing to change: give the note or a permission, such as --tunnels 5.")

    def edit(entry: TokenEntry) -> tuple[Permissions, str]:
        return replace(entry.permissions, **given), entry.note if note is None else note

    store = _open(state_dir)
    entry = store.change(key, edit)
    if entry is None and any(each.key == key for each in store.entries()):
        print(f"{error_name()} token: error: the token {key!r} is revoked, and cannot be changed", file=sys.stderr)
        return EXIT_UNKNOWN
    return _show(state_dir, key, f"Token {key} is changed.", as_json=as_json)


@token.command(help="Revoke a token for good; ends its sessions.")
@KEY
@QUERY
def revoke(key: str, state_dir: Path, *, as_json: bool) -> int:
    """Revoke a token and return the exit status."""
    store = _open(state_dir)
    store.revoke(key, int(time.time()))
    return _show(state_dir, key, f"Token {key} is revoked.", as_json=as_json)


def _open(state_dir: Path) -> TokenStore:
    StateDir(state_dir)
    return TokenStore(state_dir)


def _show(state_dir: Path, key: str, message: str | None, *, as_json: bool) -> int:
    """Print a token as JSON, or the message, or by default all that is known of the token."""
    now = int(time.time())
    entry = next((entry for entry in _open(state_dir).entries() if entry.key == key), None)
    if entry is None:
        print(f"{error_name()} token: error: {_unknown(key, state_dir)}", file=sys.stderr)
        return EXIT_UNKNOWN
    fields = "\n".join(f"{name + ':':12} {value}" for name, value in _fields(entry, now).items())
    print(json.dumps(_as_json(entry, now)) if as_json else message or fields)
    return 0


def _unknown(key: str, state_dir: Path) -> str:
    """Return why there is no entry with a key."""
    operator = StateDir(state_dir).existing_token()
    if operator and key in ("operator", "(operator)", key_of(operator), operator_key(operator)):
        return f"{key} is the operator's token (file `token`), which has all permissions and is not in the list"
    return f"there is no token {key!r}; `list` shows all but the operator's (file `token`)"


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
        "tcp_ports": None if ports is None else format_ports(ports),
        "created": entry.created,
        "revoked": entry.revoked,
        "note": entry.note,
    }


def _shown_ports(ports: range | None) -> str:
    return "all" if ports is None else format_ports(ports)
