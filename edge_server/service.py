"""The process of one edge, which serves until a signal, a successor or its operator ends it."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from edge_server.banner import banner
from edge_server.observability import logs, state_dump
from edge_server.reload import Reloads
from edge_server.signals import STOP_SIGNALS, Signals
from edge_server.startup import start_edge
from edge_server.systemd import goes_to_journal, keep_alive, notify, take_activated_sockets
from quictunnel.shared import output
from quictunnel.shared.event_loop import new_event_loop
from quictunnel.shared.malloc import keep_freed_memory
from quictunnel.shared.supervision import Supervisor, log_callback_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from edge_server.config.edge_config import EdgeConfig, Reading
    from edge_server.server import RunningEdge


def serve(config: EdgeConfig, read_again: Callable[[], Reading]) -> None:
    """Serve until SIGTERM or SIGINT, a takeover by another edge, or a request of the operator; then drain. A
    second signal ends at once.

    Args:
        config: the options.
        read_again: reads the options at SIGHUP; called in another thread.

    Raises:
        ConfigError: the edge cannot start.
    """
    keep_freed_memory()
    logs.configure_logging(config, to_journal=goes_to_journal(2))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(config, read_again))


async def _serve(config: EdgeConfig, read_again: Callable[[], Reading]) -> None:
    log_callback_errors(asyncio.get_running_loop())
    signals = Signals()
    # Restored when the edge has stopped: a signal while its process ends does not change the exit status.
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with signals.installed():
        server = await start_edge(config, take_activated_sockets(os.environ))
        try:
            await _run(server, signals, read_again)
        finally:
            await server.stop()


async def _run(server: RunningEdge, signals: Signals, read_again: Callable[[], Reading]) -> None:
    """Serve until the edge is to stop, and drain."""
    tasks = Supervisor()
    signals.dump = partial(state_dump.write_dump, server.introspection)
    reloads = Reloads(server.reconfigure, read_again, signals.reload)
    # To standard output, because this is for the user who has started the edge, and not for the log.
    print(banner(server), file=output.standard_output(), flush=True)
    notify("READY=1", f"MAINPID={os.getpid()}")
    await first_of(
        signals.stop.wait(),
        server.taken_over.wait(),
        server.drain_requested.wait(),
        tasks.run_repeatedly(reloads.run, "reading the configuration again"),
        tasks.run_repeatedly(keep_alive, "notifying the watchdog"),
    )
    if not server.taken_over.is_set():
        notify("STOPPING=1")
    await first_of(server.drain(), signals.force_stop.wait(), reloads.refuse())


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of the coroutines is done, and cancel the others. Raises what they raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
