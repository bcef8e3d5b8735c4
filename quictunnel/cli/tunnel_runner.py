"""Runs one tunnel in the main thread, from opening to the end of its drain.

Signals and the client's events come through one inbox, so only this thread calls the reporter.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import quictunnel
from quictunnel.cli.output_options import OutputOptions
from quictunnel.cli.reporter import FINAL_EVENTS, OpenedTunnel, one_line
from quictunnel.errors import Error
from quictunnel.events import LOST, VISITOR, WARNING, ClientEvent
from quictunnel.shared.output import EXIT_STATUS, discard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from quictunnel.cli.reporter import Reporter
    from quictunnel.cli.request_lines import RequestFeed
    from quictunnel.client import Client
    from quictunnel.config.client_config import ClientConfig

TICK_INTERVAL: Final = 0.25
"""Seconds between updates of the numbers."""
MAX_PENDING: Final = 1000
"""Events that may wait while stdout is blocked. Further events about visitors are dropped and counted."""
MAX_PENDING_STATES: Final = 2 * MAX_PENDING
"""The limit for all other events, which are rarer and more important. They need one too: a client may reconnect
for hours while a pipe is blocked."""
MAX_ERROR: Final = 500
"""Characters of the message with which a tunnel ended; it may quote the edge."""
HANG_UP: Final = getattr(signal, "SIGHUP", None)
"""The signal of a closed terminal; None on Windows."""


class Inbox:
    """Queue of events for the main thread.

    Puts never block and are safe in a signal handler and on any thread. ``SimpleQueue`` guarantees this; a lock,
    an Event or a Queue does not.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[ClientEvent | None] = queue.SimpleQueue()
        self._dropped = 0

    def stop(self) -> None:
        """Make the main thread stop: its next :meth:`get` returns None."""
        self._queue.put(None)

    def put(self, event: ClientEvent) -> None:
        """Add an event, or count it as dropped if too many are pending."""
        if self._queue.qsize() >= (MAX_PENDING if event.kind == VISITOR else MAX_PENDING_STATES):
            self._dropped += 1
        else:
            self._queue.put(event)

    def get(self, timeout: float) -> ClientEvent | None:
        """Return the next event, or None to stop.

        Raises:
            queue.Empty: no event within ``timeout`` seconds.
        """
        if self._dropped and self._queue.empty():
            return self._drop_notice()
        return self._queue.get(timeout=timeout)

    def remaining(self) -> list[ClientEvent]:
        """Return the remaining events, when no more will come."""
        left: list[ClientEvent] = []
        while not self._queue.empty():
            event = self._queue.get()
            if event is not None:
                left.append(event)
        return [*left, self._drop_notice()] if self._dropped else left

    def _drop_notice(self) -> ClientEvent:
        count, self._dropped = self._dropped, 0
        return ClientEvent(WARNING, f"{count} events are not shown: the output was not read in time", time.time())


class EventGate:
    """Delays events until the tunnel is open, because "ready" must come first.

    The states before the first connection are then dropped; warnings and later states are kept.
    """

    def __init__(self, inbox: Inbox, *, shows_visitors: bool = True) -> None:
        """``shows_visitors``: False to drop the events about visitors."""
        self._inbox = inbox
        self._shows_visitors = shows_visitors
        self._lock = threading.Lock()
        self._delayed: deque[ClientEvent] = deque(maxlen=MAX_PENDING)
        self._is_open = False

    def put(self, event: ClientEvent) -> None:
        """Deliver or delay an event. Called on the client's thread."""
        if event.kind == VISITOR and not self._shows_visitors:
            return
        with self._lock:
            if self._is_open:
                self._inbox.put(event)
            elif event.kind == "connected":
                warnings = [earlier for earlier in self._delayed if earlier.kind == WARNING]
                self._delayed.clear()
                self._delayed.extend(warnings)
            else:
                self._delayed.append(event)

    def opened(self) -> None:
        """Deliver the delayed events, and all following ones at once."""
        with self._lock:
            self._is_open = True
            while self._delayed:
                self._inbox.put(self._delayed.popleft())


class Interrupts:
    """Handler of SIGINT and SIGTERM: the first starts the drain, the second ends the process at once.

    SIGHUP of a closed terminal starts the drain as well. It never ends the process at once, because the kernel and
    the shell may both send one.
    """

    def __init__(self, inbox: Inbox, exit_process: Callable[[int], object] = os._exit) -> None:
        self._inbox = inbox
        self._exit_process = exit_process
        self._is_stopping = False
        self._is_stop_received = False
        self._is_delaying = False
        self._pending: int | None = None
        self.is_serving = False
        """True when the tunnel is open."""

    def __call__(self, number: int, _frame: FrameType | None = None) -> None:
        if self._is_delaying:
            self._pending = number
            return
        if number != HANG_UP:
            if self._is_stop_received:
                self._exit_process(128 + number)  # the exit status that a shell reports after a signal
            self._is_stop_received = True
        if self._is_stopping:
            return
        self._is_stopping = True
        if self.is_serving:
            self._inbox.stop()
        else:
            # Opening a tunnel blocks this thread; only an exception ends it.
            raise KeyboardInterrupt

    @contextmanager
    def delayed(self) -> Iterator[None]:
        """Delay signals until the end of the block, while an object is created that must be cleaned up."""
        self._is_delaying = True
        try:
            yield
        finally:
            self._is_delaying = False
            if self._pending is not None:
                self(self._pending)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Install the handler for the block. Outside the main thread, which alone may do that, do nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """Local service to expose, with its options."""

    port: int | str
    """First argument of ``forward()``."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``forward()``."""

    @property
    def tcp(self) -> bool:
        """True if a plain TCP port is requested."""
        return bool(self.options.get("unencrypted"))


def new_client(config: ClientConfig) -> Client:
    """Create a client of an edge."""
    return quictunnel.Client.from_config(config)


def serve(
    client: Client,
    request: TunnelRequest,
    *,
    reporter: Reporter,
    inbox: Inbox,
    interrupts: Interrupts,
    output: OutputOptions | None = None,
    when_open: Callable[[OpenedTunnel], bool] = lambda _: True,
) -> int:
    """Open a tunnel, report its events until the inbox is stopped, and let the tunnel drain.

    Return the exit status: 0, or that of a program whose output has no reader any more.

    Errors of the package are raised, and so is KeyboardInterrupt while the tunnel opens.

    Args:
        client: the client, which is closed at the end.
        request: port and options.
        reporter: the reporter to call.
        inbox: the queue of events.
        interrupts: the signal handler; its ``is_serving`` is set when the tunnel is open.
        output: which events and requests are reported.
        when_open: called once with the open tunnel; if it returns False, the tunnel is closed at once.
    """
    output = output or OutputOptions()
    feed = output.request_feed()
    options = request.options if feed is None else {**request.options, "on_request": feed.queue}
    with closing(client), ExitStack() as subscription:
        gate = EventGate(inbox, shows_visitors=output.shows_visitors)
        subscription.callback(client.subscribe(gate.put))
        try:
            with quictunnel.forward(request.port, client=client, **options) as tunnel:
                interrupts.is_serving = True
                gate.opened()
                with _ignoring_a_closed_pipe() as pipe:
                    opened = OpenedTunnel(tunnel, request.port, has_tcp=request.tcp)
                    reporter.opened(opened)
                    if when_open(opened):
                        _watch(reporter, inbox, client, feed)
                with _ignoring_a_closed_pipe():
                    reporter.closing()
        finally:
            subscription.close()
            with _ignoring_a_closed_pipe():
                for event in inbox.remaining():
                    reporter.event(event)
                reporter.closed()
    return EXIT_STATUS if pipe.is_closed else 0


def _watch(reporter: Reporter, inbox: Inbox, client: Client, feed: RequestFeed | None) -> None:
    """Report events and requests until a signal arrives.

    Raises:
        Error: the client or the tunnel has ended. It has the class of the client's failure, such as AuthError for
            a revoked token.
    """
    due = time.monotonic() + TICK_INTERVAL
    try:
        while True:
            wait = due - time.monotonic()
            if wait <= 0:  # also while events keep coming
                _update(reporter, feed)
                due = time.monotonic() + TICK_INTERVAL
                continue
            try:
                event = inbox.get(wait)
            except queue.Empty:
                continue
            if event is None:
                return
            reporter.event(event)
            if event.kind in FINAL_EVENTS:
                raise _ended(event, client)
    finally:
        _update(reporter, feed)


def _ended(event: ClientEvent, client: Client) -> Error:
    """Return the error for a tunnel that has ended; ``event`` says why."""
    failure = client.failure if event.kind != LOST else None
    if failure is None:
        return Error(f"The tunnel has ended: {one_line(event.message, MAX_ERROR)}")
    return type(failure)(f"The tunnel has ended: {failure.message}", advice=failure.advice)


def _update(reporter: Reporter, feed: RequestFeed | None) -> None:
    """Report the requests since the last call, and update the numbers."""
    if feed is not None:
        reporter.requests(feed.take())
    reporter.tick()


@dataclass(slots=True)
class _Pipe:
    """Output that may have no reader."""

    is_closed: bool = False


@contextmanager
def _ignoring_a_closed_pipe() -> Iterator[_Pipe]:
    """Ignore BrokenPipeError: if the output has no reader, the caller closes the tunnel as after a signal."""
    pipe = _Pipe()
    try:
        yield pipe
    except BrokenPipeError:
        pipe.is_closed = True
        if sys.stdout is not None:
            discard(sys.stdout)
