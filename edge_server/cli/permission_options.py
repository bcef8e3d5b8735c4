"""Options for the note and the permissions of a token, to create one or to change it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from edge_server.auth.permission_texts import (
    MAX_COUNT,
    PermissionTextError,
    parse_bandwidth,
    parse_domains,
    parse_expiry,
    parse_names,
    parse_ports,
)
from edge_server.auth.token_store import MAX_NOTE
from quictunnel.shared.address import short_repr
from quictunnel.shared.command_line import combine_options

if TYPE_CHECKING:
    from collections.abc import Callable

NO_LIMIT: Final = "all"
"""Value that takes a limit away."""
NO_END: Final = "never"
"""Value of ``--expires`` for a token without an end."""
F = TypeVar("F", bound="Callable[..., Any]")


class _Option(NamedTuple):
    """An option of a permission."""

    name: str
    parse: Callable[[str], Any]
    metavar: str
    help: str
    default: str = NO_LIMIT
    """Value for a new token without the option."""
    nothing: str = NO_LIMIT
    """Value that stands for None."""

    def value_of(self, text: str) -> Any:
        """Return the parsed value. Raises BadParameter."""
        if text == self.nothing:
            return None
        try:
            return self.parse(text)
        except PermissionTextError as error:
            raise click.BadParameter(str(error)) from None


def _parse_count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise PermissionTextError(f"should be a number from 0 to {MAX_COUNT}, or all, not {short_repr(text)}.")
    return int(text)


def _parse_expiry(text: str) -> int:
    return parse_expiry(text, int(time.time()))


_PERMISSIONS: Final = (
    _Option(
        "--tunnels",
        _parse_count,
        "N|all",
        "tunnels at once, over all its clients; all: only the limits of the edge",
    ),
    _Option(
        "--visitors",
        _parse_count,
        "N|all",
        "visitors at once, over all its tunnels; all: only the limits of the edge",
    ),
    _Option(
        "--names",
        parse_names,
        "A,B*|none|all",
        "names that it may request, each exact (which reserves it for this token) or with *; none: only random "
        "ones; all: every name that is free",
    ),
    _Option(
        "--domains",
        parse_domains,
        "A,*.B|none|all",
        "custom domains that it may bind, each exact or as *.example.org for all names below",
        default="none",
    ),
    _Option(
        "--tcp-ports",
        parse_ports,
        "A-B|none|all",
        "public TCP ports that it may bind; all: every one that is free",
    ),
    _Option(
        "--bandwidth",
        parse_bandwidth,
        "RATE|all",
        "bytes a second over all its visitors, in each direction: 500k, 10M, 1G; all: only the limits of the edge",
    ),
    _Option(
        "--expires",
        _parse_expiry,
        "WHEN|never",
        "after a duration (12h, 30d, 8w), or on a day (2027-01-31, UTC)",
        default=NO_END,
        nothing=NO_END,
    ),
)


def permission_options(*, is_change: bool) -> Callable[[F], F]:
    """Return a decorator that adds the options.

    Without an option a new token has its default, and a changed one keeps what it has.
    """
    note = click.option("--note", metavar="TEXT", help=f"a note on its purpose, up to {MAX_NOTE} characters")
    return combine_options(note, *(_click_option(each, is_change=is_change) for each in _PERMISSIONS))


def _click_option(option: _Option, *, is_change: bool) -> Callable[[F], F]:
    return click.option(
        option.name,
        type=option.value_of,
        metavar=option.metavar,
        default=None if is_change or option.default == option.nothing else option.default,
        help=option.help + ("" if is_change else f" (default: {option.default})"),
    )
