"""``quictunnel-edge admin url``: print a link to the operator's page of the running edge."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from edge_server.admin.server import TOKEN_FILE, URL_FILE
from edge_server.auth.token import new_file_token
from edge_server.cli.common import EXIT_UNKNOWN, QUERY
from edge_server.storage.state_dir import StateDir
from quictunnel.errors import ConfigError
from quictunnel.shared.command_line import Group

if TYPE_CHECKING:
    from pathlib import Path


@click.group(cls=Group, no_args_is_help=False, help="The operator's page of a running edge with --admin.")
def admin() -> None:
    """Group the commands."""


@admin.command(
    "url",
    help="Print a link that opens the page. The page's own token (file admin.token) is behind the #, "
    "which browsers never send to a server; keep the link as secret as that file.",
)
@QUERY
def print_url(state_dir: Path, *, as_json: bool) -> int:
    """Print the link and return the exit status.

    Raises:
        ConfigError: the state directory cannot be read.
    """
    try:
        url = (state_dir / URL_FILE).read_text()
        token = StateDir(state_dir).secret_token(TOKEN_FILE, new_file_token)
    except FileNotFoundError:
        print(f"No edge with --admin is running in {state_dir}.", file=sys.stderr)
        return EXIT_UNKNOWN
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}.") from None
    link = f"{url}#token={token}"
    print(json.dumps({"url": url, "token": token, "link": link}) if as_json else link)
    return 0
