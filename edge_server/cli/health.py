"""``python -m edge_server health``: whether the edge of a state directory is ready, for people and for Docker."""

from __future__ import annotations

import argparse
import asyncio
import http.client
import sys
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from edge_server.cli.common import add_state_dir
from edge_server.observability.health import Readiness
from edge_server.observability.quic_probe import objection
from quictunnel.errors import ConfigError
from quictunnel.shared.address import parse_address
from quictunnel.shared.paths import CLIENT_ENV

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

READY: Final = 0
NOT_READY: Final = 1
URL_FILE: Final = "admin.url"
TIMEOUT: Final = 5.0
"""Seconds for an answer; an edge that is well takes some milliseconds, and one whose UDP does not answer two
seconds."""
MAX_ANSWER: Final = 64 * 1024
"""Bytes of one."""


class NotReadyError(Exception):
    """It is not; the text says why."""


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m edge_server health",
        description="Whether the edge is ready: it serves, its certificates are valid, its QUIC socket answers. "
        "An edge that runs with --admin is asked; of another only the QUIC socket can be.",
        epilog="Exit status 0: ready; 1: not, or there is none.",
        allow_abbrev=False,
    )
    add_state_dir(parser)
    options = parser.parse_args(argv)
    try:
        print(_look(options.state_dir))
    except NotReadyError as error:
        print(error, file=sys.stderr)
        return NOT_READY
    return READY


def _look(directory: Path) -> str:
    try:
        url = (directory / URL_FILE).read_text().strip()
    except FileNotFoundError:
        return _of_udp_alone(directory)
    except OSError as error:
        raise NotReadyError(f"{error.filename} cannot be read: {error.strerror}.") from None
    try:
        readiness = msgspec.json.decode(_fetched(url), type=Readiness)
    except ConnectionRefusedError:
        # Left behind by an edge that was killed. Whoever runs there now has no page.
        return _of_udp_alone(directory)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        raise NotReadyError(
            f"not ready: no answer from {url}readyz ({str(error) or type(error).__name__})"
        ) from None
    wrong = [f"not ready: {check.name}: {check.why}" for check in readiness.checks if not check.ok]
    if wrong or not readiness.ready:
        raise NotReadyError("\n".join(wrong) or "not ready")
    return "ready"


def _fetched(url: str) -> bytes:
    where = urlsplit(url)
    # Not urllib: that would ask a proxy of the environment.
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().read(MAX_ANSWER)
    finally:
        connection.close()


def _of_udp_alone(directory: Path) -> str:
    """An edge without --admin says where its QUIC socket is."""
    try:
        lines = (directory / CLIENT_ENV).read_text().splitlines()
    except OSError as error:
        raise NotReadyError(f"not ready: no edge serves with --state-dir {directory} ({error.strerror})") from None
    said = dict(line.partition("=")[::2] for line in lines)
    try:
        address = parse_address(said.get("QUICTUNNEL_EDGE", ""), what="QUICTUNNEL_EDGE")
    except ConfigError as error:
        raise NotReadyError(f"not ready: {directory / CLIENT_ENV} is damaged: {error}") from None
    if why := asyncio.run(objection(address)):
        raise NotReadyError(f"not ready: udp: {why}")
    return "its QUIC socket answers; an edge that runs with --admin says more"
