"""``python -m edge_server admin url``: print a link to the operator's page of the running edge."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from edge_server.admin.server import TOKEN_FILE, URL_FILE
from edge_server.auth.token import new_operator_token
from edge_server.cli.common import EXIT_CONFIG, EXIT_UNKNOWN, build_parser
from edge_server.storage.state_dir import StateDir
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Run the command. Return its exit status."""
    parser, add = build_parser("admin", "The operator's page of a running edge with --admin.")
    add(
        "url",
        "Print a link that opens the page. The token is behind the #, which browsers never send to a server; "
        "keep the link as secret as the token file.",
    )
    options = parser.parse_args(argv)
    try:
        url = (options.state_dir / URL_FILE).read_text()
        token = StateDir(options.state_dir).secret_token(TOKEN_FILE, new_operator_token)
    except FileNotFoundError:
        print(f"No edge with --admin is running in {options.state_dir}.", file=sys.stderr)
        return EXIT_UNKNOWN
    except OSError as error:
        print(f"{error.filename} cannot be read: {error.strerror}.", file=sys.stderr)
        return EXIT_CONFIG
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    link = f"{url}#token={token}"
    print(json.dumps({"url": url, "token": token, "link": link}) if options.json else link)
    return 0
