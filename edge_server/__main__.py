"""``python -m edge_server``: run an edge until it is told to stop, or one of the operator's commands."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from edge_server.cli import check_config
from edge_server.cli.commands import COMMANDS
from edge_server.cli.commands import main as run_command
from edge_server.config.edge_config import EdgeConfig, Reading, read
from edge_server.observability import logs, state_dump
from edge_server.reload import Reloads
from edge_server.signals import Signals
from edge_server.startup import start_edge
from edge_server.systemd import goes_to_journal, keep_alive, notify, take_activated_sockets
from quictunnel.errors import ConfigError
from quictunnel.shared import output
from quictunnel.shared.event_loop import new_event_loop
from quictunnel.shared.malloc import keep_pages
from quictunnel.shared.supervision import Supervisor, watch_over

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from edge_server.server import RunningEdge

EXIT_CONFIG: Final = 2


def banner(server: RunningEdge) -> str:
    """Return the text that tells a person how to use this edge."""
    config = server.config
    # What goes to the journal is kept, and read by more people than those who may open tunnels.
    is_kept = config.hide_token or goes_to_journal(1)
    file = shlex.quote(str(config.state_dir / "token"))
    token = f'"$(cat {file})"' if is_kept else shlex.quote(server.token)
    authority = shlex.quote(str(server.ca))
    # Where a public authority vouches for the tunnels, a visitor needs nothing of ours.
    trust = "" if config.cert is not None or config.acme else f"--cacert {authority} "
    public, address = server.public_quic_address, server.public_quic_address or server.quic_address
    unknown = "" if public else "Say --public-host NAME for clients on other machines.\n"
    copy = f" these, and a copy of {server.ca.name}" if address != server.quic_address else ""
    return (
        f"The edge serves https://*.{config.domain}:{server.https_port} and TCP ports "
        f"{config.tcp_ports[0]}-{config.tcp_ports[-1]}; clients connect to {address} (UDP).\n{unknown}"
        f"Clients on this machine find it by themselves. Others need{copy}:\n\n"
        f"  export QUICTUNNEL_EDGE={shlex.quote(address)}\n"
        f"  export QUICTUNNEL_TOKEN={token}\n"
        f"  export QUICTUNNEL_CA={authority}\n\n"
        f"Try:  quictunnel http 8000     then:  curl {trust}URL"
    )


async def run(config: EdgeConfig, read_again: Callable[[], Reading]) -> None:
    """Serve until SIGTERM or SIGINT, or until another edge took over; then drain. A second signal ends at once.
    SIGHUP has ``read_again`` called, in another thread."""
    watch_over(asyncio.get_running_loop())
    signals = Signals()
    tasks = Supervisor()
    loop = asyncio.get_running_loop()
    if hasattr(signal, "SIGUSR1"):  # whose default is to end the process
        loop.add_signal_handler(signal.SIGUSR1, state_dump.refuse_dump)
    server = await start_edge(config, take_activated_sockets(os.environ))
    try:
        if hasattr(signal, "SIGUSR1"):
            loop.add_signal_handler(signal.SIGUSR1, state_dump.write_dump, server.introspection)
        reloads = Reloads(server.reconfigure, read_again, signals.reload)
        # For the person who started it, not for the log.
        print(banner(server), file=output.standard_output(), flush=True)
        notify("READY=1", f"MAINPID={os.getpid()}")
        await first_of(
            signals.stop.wait(),
            server.succeeded.wait(),
            server.asked_to_drain.wait(),
            tasks.running(reloads.run, "reading the configuration again"),
            tasks.running(keep_alive, "telling the service manager"),
        )
        if not server.succeeded.is_set():
            notify("STOPPING=1")
        await first_of(server.drain(), signals.hurry.wait())
    finally:
        await server.stop()


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


def check(reading: Reading) -> int:
    """Print the result of ``--check-config``, and return the exit status."""
    wrong, lines = check_config.report(reading)
    complain(wrong)
    print(*lines, sep="\n", end="\n" if lines else "")  # noqa: T201 - what was asked for
    return EXIT_CONFIG if wrong else 0


def complain(problems: Sequence[str]) -> None:
    """Print what the operator has to mend, a line for each problem."""
    for problem in problems:
        print(f"edge_server: error: {problem}", file=sys.stderr)  # noqa: T201 - as the banner


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status. ``argv``: its arguments, by default those of the process."""
    words = sys.argv[1:] if argv is None else argv
    return output.run(lambda: _main(words))


def _main(words: Sequence[str]) -> int:
    if words and words[0] in COMMANDS:
        return run_command(words)

    def read_again() -> Reading:
        return read(words, os.environ)

    reading = read_again()
    if reading.only_check:
        return check(reading)
    if reading.config is None:
        complain(reading.problems)
        return EXIT_CONFIG
    keep_pages()
    try:
        logs.configure_logging(reading.config)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(run(reading.config, read_again))
    except ConfigError as error:
        complain([str(error)])
        return EXIT_CONFIG
    except KeyboardInterrupt:
        return 0  # before the handlers were in place
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
