"""``python -m edge_server``: parse, run until told to stop, drain."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from edge_server import logs
from edge_server.config import EdgeConfig, parse
from edge_server.server import EdgeServer
from quictunnel.background import new_event_loop
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
EXIT_CONFIG: Final = 2


def banner(server: EdgeServer) -> str:
    """What a person needs to use this edge."""
    config = server.config
    return (
        f"The edge serves https://*.{config.domain}:{server.https_port} and TCP ports "
        f"{config.tcp_ports[0]}-{config.tcp_ports[-1]}; clients connect to {server.quic_address} (UDP).\n"
        "Clients on this machine find it by themselves. Others need:\n\n"
        f"  export QUICTUNNEL_EDGE={server.quic_address}\n"
        f"  export QUICTUNNEL_TOKEN={server.token}\n"
        f"  export QUICTUNNEL_CA={server.ca}\n\n"
        f"Try:  quictunnel http 8000     then:  curl --cacert {server.ca} URL"
    )


async def run(config: EdgeConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once."""
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    again = asyncio.Event()

    def stop() -> None:
        (again if told.is_set() else told).set()

    for number in STOP_SIGNALS:
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows: the handler runs in the main thread, so the loop is woken
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
    server = EdgeServer(config)
    await server.start()
    try:
        print(banner(server), flush=True)  # noqa: T201 - for the person who started it, not for the log
        await told.wait()
        drain = asyncio.create_task(server.drain())
        hurry = asyncio.create_task(again.wait())
        await asyncio.wait([drain, hurry], return_when=asyncio.FIRST_COMPLETED)
        for task in (drain, hurry):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    finally:
        await server.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """The program; returns its exit status."""
    try:
        config = parse(sys.argv[1:] if argv is None else argv, os.environ)
        logs.set_up(config)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(run(config))
    except ConfigError as error:
        print(f"edge_server: error: {error}", file=sys.stderr)  # noqa: T201 - as above
        return EXIT_CONFIG
    except KeyboardInterrupt:
        return 0  # before the handlers were in place
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
