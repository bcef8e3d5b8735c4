"""Choice of the output of a command that opens a tunnel: which reporter, and which events and requests it gets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import quictunnel
from quictunnel.cli.json_reporter import JsonReporter
from quictunnel.cli.outage import Outage
from quictunnel.cli.reporter import TextReporter
from quictunnel.cli.request_lines import MAX_BATCH, RequestFeed
from quictunnel.cli.screen import is_in_background, terminal_size
from quictunnel.shared.output import has_colour, has_cursor, standard_output

if TYPE_CHECKING:
    from quictunnel.cli.reporter import Reporter
    from quictunnel.client import Client


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """Options of the output of a command that opens a tunnel."""

    as_json: bool = False
    quiet: bool = False
    requests: bool | None = None
    """True to show requests; None for the default of the command."""

    @property
    def shows_requests(self) -> bool:
        """True if requests are shown. JSON has them only if they are asked for."""
        return not self.quiet and (not self.as_json if self.requests is None else self.requests)

    @property
    def shows_visitors(self) -> bool:
        """True if each visitor's arrival is shown. A line about their request says more."""
        return not self.quiet and (self.as_json or not self.shows_requests)

    def request_feed(self) -> RequestFeed | None:
        """Return the source of requests to show, if they are shown."""
        if not self.shows_requests:
            return None
        return RequestFeed(quictunnel.RequestQueue() if self.as_json else quictunnel.RequestQueue(MAX_BATCH))


def choose_reporter(client: Client, options: OutputOptions, *, can_redraw: bool = True) -> Reporter:
    """Return the reporter for stdout: JSON events, a live screen on a terminal, or plain lines.

    Args:
        client: the client, whose figures are shown.
        options: options of the output.
        can_redraw: False if another program writes to the terminal as well.
    """
    stream = standard_output()
    if options.as_json:
        return JsonReporter(stream)
    size = terminal_size(stream) if stream.isatty() else None
    if can_redraw and size is not None and has_cursor(stream, os.environ) and not is_in_background(stream):
        from quictunnel.cli.live_reporter import (  # noqa: PLC0415 - only a terminal needs it
            MIN_HEIGHT,
            MIN_WIDTH,
            LiveReporter,
        )

        if size.columns >= MIN_WIDTH and size.lines >= MIN_HEIGHT:
            return LiveReporter(stream, client.snapshot, has_colour=has_colour(stream, os.environ))
    return TextReporter(stream, Outage(client.snapshot), None if size is None else size.columns)


def take_output_options(options: dict[str, Any], *, default_requests: bool | None = None) -> OutputOptions:
    """Remove the options of the output from the values of a command line, and return them.

    Args:
        options: values by parameter.
        default_requests: default of ``--requests``; None: all outputs but JSON have them.
    """
    requests = options.pop("requests")
    return OutputOptions(
        as_json=options.pop("as_json"),
        quiet=options.pop("quiet"),
        requests=default_requests if requests is None else requests,
    )
