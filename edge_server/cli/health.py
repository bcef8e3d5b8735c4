"""``quictunnel-edge health``: report if the edge of a state directory is ready, for people and for
Docker."""

from __future__ import annotations

import http.client
import sys
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click
import msgspec

from edge_server.cli.common import STATE_DIR
from edge_server.observability.health import Readiness, quic_error
from quictunnel.errors import ConfigError
from quictunnel.shared.address import parse_address
from quictunnel.shared.command_line import Command
from quictunnel.shared.paths import CLIENT_ENV

if TYPE_CHECKING:
    from pathlib import Path

EXIT_READY: Final = 0
"""Exit status of a ready edge."""
EXIT_NOT_READY: Final = 1
"""Exit status of an edge that is not ready, or not running."""
URL_FILE: Final = "admin.url"
RESPONSE_TIMEOUT: Final = 5.0
"""Seconds for a response. A healthy edge responds within milliseconds; one whose UDP port is unreachable takes two
seconds."""
MAX_RESPONSE: Final = 64 * 1024
"""Bytes of a response."""


class NotReadyError(Exception):
    """The edge is not ready; the message has the reasons."""


@click.command(
    cls=Command,
    help="Check that the edge is ready: it serves, its certificates are valid, its QUIC socket responds. Without "
    "--admin, only the QUIC socket of the edge can be checked.",
    epilog="Exit status 0: ready; 1: not ready, or not running.\n",
)
@STATE_DIR
def health(state_dir: Path) -> int:
    """Print if the edge is ready and return the exit status."""
    try:
        print(_check(state_dir))
    except NotReadyError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_READY
    return EXIT_READY


def _check(directory: Path) -> str:
    try:
        url = (directory / URL_FILE).read_text().strip()
    except FileNotFoundError:
        return _check_udp(directory)
    except OSError as error:
        raise NotReadyError(f"{error.filename} cannot be read: {error.strerror}.") from None
    try:
        readiness = msgspec.json.decode(_fetch_readiness(url), type=Readiness)
    except ConnectionRefusedError:
        # The file is from an edge that was killed. An edge that runs now has no --admin.
        return _check_udp(directory)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise NotReadyError(
            f"not ready: no response from {url}readyz ({str(error) or type(error).__name__})"
        ) from None
    wrong = [f"not ready: {check.name}: {check.why}" for check in readiness.checks if not check.ok]
    if wrong or not readiness.ready:
        raise NotReadyError("\n".join(wrong) or "not ready")
    return "ready"


def _fetch_readiness(url: str) -> bytes:
    where = urlsplit(url)
    # Not urllib: it would use a proxy from the environment.
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=RESPONSE_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().read(MAX_RESPONSE)
    finally:
        connection.close()


def _check_udp(directory: Path) -> str:
    """Probe the QUIC address in ``client.env``, for an edge without --admin. Return the report, or raise
    NotReadyError."""
    try:
        lines = (directory / CLIENT_ENV).read_text().splitlines()
    except OSError as error:
        raise NotReadyError(
            f"not ready: no edge is running with --state-dir {directory} ({error.strerror})"
        ) from None
    values = dict(line.partition("=")[::2] for line in lines)
    try:
        address = parse_address(values.get("QUICTUNNEL_EDGE", ""), what="QUICTUNNEL_EDGE")
    except ConfigError as error:
        raise NotReadyError(f"not ready: {directory / CLIENT_ENV} is damaged: {error}") from None
    if why := quic_error(address):
        raise NotReadyError(f"not ready: udp: {why}")
    return "the QUIC socket responds; run the edge with --admin for a full check"
