"""Another configuration for an edge that serves (SIGHUP): what may change does, and nobody's connection ends."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge_server.config.edge_config import OPTIONS, differences
from edge_server.observability import logs
from edge_server.systemd import notify
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.config.edge_config import EdgeConfig, Reading
    from edge_server.server import EdgeServer
    from edge_server.services import EdgeServices

logger = logging.getLogger(__name__)

_LIVE: Final = frozenset(row.field for row in OPTIONS if row.live)
_NAMES: Final = {row.field: row.name for row in OPTIONS}


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """What became of a new configuration."""

    config: EdgeConfig
    """What is in force now."""
    changed: tuple[str, ...]
    """Names of options that are as the new one says."""
    waiting: tuple[str, ...]
    """Names of those that a restart is needed for."""


async def reconfigure(house: EdgeServices, before: EdgeConfig, wanted: EdgeConfig) -> ReloadOutcome:
    """See the module. Raises ConfigError: then nothing has changed."""
    different = differences(before, wanted)
    live = [name for name in different if name in _LIVE]
    if {"cert", "key"} & set(live):
        if before.cert is None or wanted.cert is None or wanted.key is None:
            # between a development authority and files: other names, another chain, and no visitor who expects it
            live = [name for name in live if name not in ("cert", "key")]
        else:
            read = house.certificates.read_other
            use = await asyncio.to_thread(read, before.cert, wanted.cert, wanted.key, before.domain)
            use()
    changes: dict[str, Any] = {name: getattr(wanted, name) for name in live}
    config = dataclasses.replace(before, **changes)
    # From here on nothing fails. ``grace`` is looked up when it is wanted.
    house.certificates.allow_wildcard_h2(config.allow_wildcard_h2)
    house.sessions.hold = house.expected.hold = config.hold
    if {"log_format", "log_level"} & set(live):
        logs.set_up(config)
    waiting = [name for name in different if name not in live]
    return ReloadOutcome(config, tuple(_NAMES[name] for name in live), tuple(_NAMES[name] for name in waiting))


async def reload(server: EdgeServer, read: Callable[[], Reading]) -> None:
    """Read the configuration again and apply it; the log and the service manager are told what came of it."""
    # The manager measures from this moment, by its own clock (sd_notify(3), RELOADING=1).
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    try:
        reading = await asyncio.to_thread(read)
        if reading.config is None:
            problems = reading.problems
        else:
            outcome = await server.reconfigure(reading.config)
            problems = ()
    except ConfigError as error:
        problems = (str(error),)
    if problems:
        for problem in problems:
            logger.error("%s", problem)
        logger.error("the configuration stays as it was, because of what is wrong with the new one")
        notify("READY=1", f"STATUS=Running with the configuration of before: {problems[0]}")
        return
    logger.info("the configuration was read again; changed: %s", ", ".join(outcome.changed) or "nothing")
    for name in outcome.waiting:
        logger.warning("--%s changed: needs SIGUSR2 or a restart", name)
    notify(
        "READY=1", "STATUS=" + (f"A restart is needed for {', '.join(outcome.waiting)}" if outcome.waiting else "")
    )


class Reloads:
    """Reloads one after the other, however often they are asked for."""

    def __init__(self, server: EdgeServer, read: Callable[[], Reading], asked: asyncio.Event) -> None:
        """``asked`` is set by who wants one; asked again while one runs, one more follows, which sees all."""
        self._server = server
        self._read = read
        self._asked = asked

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await reload(self._server, self._read)
            except Exception:  # a fault of ours in one reload must not end the edge
                logger.exception("the configuration could not be read again")
                notify("READY=1")
