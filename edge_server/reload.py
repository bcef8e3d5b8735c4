"""Reload of the configuration while the edge serves (SIGHUP): no connection ends."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from edge_server.config.edge_config import OPTIONS, differences
from edge_server.observability import logs
from edge_server.systemd import goes_to_journal, notify
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from edge_server.config.edge_config import EdgeConfig, Reading
    from edge_server.wiring import EdgeServices

logger = logging.getLogger(__name__)

_LIVE: Final = frozenset(row.field for row in OPTIONS if row.live)
_NAMES: Final = {row.field: row.name for row in OPTIONS}


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """Result of applying a new configuration."""

    config: EdgeConfig
    """The configuration in force now."""
    changed: tuple[str, ...]
    """Names of the options that have their new value."""
    waiting: tuple[str, ...]
    """Names of the options that need a restart."""


Apply: TypeAlias = "Callable[[EdgeConfig], Awaitable[ReloadOutcome]]"


async def reconfigure(services: EdgeServices, current: EdgeConfig, requested: EdgeConfig) -> ReloadOutcome:
    """Apply the options of ``requested`` that may change while the edge serves.

    Raises ConfigError; then nothing has changed.
    """
    different = differences(current, requested)
    live = [name for name in different if name in _LIVE]
    if {"cert", "key"} & set(live):
        if current.cert is None or requested.cert is None or requested.key is None:
            # A change between the development authority and files needs a restart: names and chain differ.
            live = [name for name in live if name not in ("cert", "key")]
        else:
            read = services.certificates.load_replacement
            use = await asyncio.to_thread(read, current.cert, requested.cert, requested.key, current.domain)
            use()
    changes: dict[str, Any] = {name: getattr(requested, name) for name in live}
    config = dataclasses.replace(current, **changes)
    # From here on nothing can fail. ``grace`` is read when the edge drains.
    services.certificates.allow_wildcard_h2(config.allow_wildcard_h2)
    services.error_pages.is_on = config.error_pages == "on"
    services.sessions.hold = services.pending.hold = config.hold
    if {"log_format", "log_level"} & set(live):
        logs.configure_logging(config, to_journal=goes_to_journal(2))
    waiting = [name for name in different if name not in live]
    return ReloadOutcome(config, tuple(_NAMES[name] for name in live), tuple(_NAMES[name] for name in waiting))


async def reload(apply: Apply, read: Callable[[], Reading]) -> None:
    """Read the configuration again and apply it; report the result to the log and the service manager."""
    # The manager measures from this moment, by its own clock (sd_notify(3), RELOADING=1).
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        reading = await asyncio.to_thread(read)
        if reading.config is None:
            problems = reading.problems
        else:
            outcome = await apply(reading.config)
            problems = ()
    except ConfigError as error:
        problems = (str(error),)
    if problems:
        for problem in problems:
            logger.error("%s", problem)
        logger.error("the configuration is unchanged, because the new one has errors")
        notify("READY=1", f"STATUS=Running with the previous configuration: {problems[0]}")
        return
    logger.info("the configuration was read again; changed: %s", ", ".join(outcome.changed) or "nothing")
    for name in outcome.waiting:
        logger.warning("--%s changed: needs SIGUSR2 or a restart", name)
    notify(
        "READY=1", "STATUS=" + (f"A restart is needed for {', '.join(outcome.waiting)}" if outcome.waiting else "")
    )


class Reloads:
    """Runs the requested reloads one after the other."""

    def __init__(self, apply: Apply, read: Callable[[], Reading], requested: asyncio.Event) -> None:
        """Wait for requests to reload.

        Args:
            apply: applies a configuration (:meth:`edge_server.server.RunningEdge.reconfigure`).
            read: reads the configuration; called in another thread.
            requested: event that requests a reload. If it is set again during a reload, another one follows.
        """
        self._apply = apply
        self._read = read
        self._requested = requested

    async def run(self) -> None:
        """Reload on each request, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            try:
                await reload(self._apply, self._read)
            except asyncio.CancelledError:
                self._requested.set()  # for refuse()
                raise
            except Exception:  # a bug in the reload must not end the edge
                logger.exception("the configuration could not be read again")
                notify("READY=1")

    async def refuse(self) -> None:
        """Log each request that the edge does not follow, because it is draining, until cancelled. Call it after
        :meth:`run` was cancelled: a reload that was interrupted is logged as well."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            logger.warning("the configuration is not read again: the edge is draining")
