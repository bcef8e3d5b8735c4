"""One tunnel, from opening to the end of its drain, in the main thread.

Everything that happens meanwhile, signals and the client's events alike, comes through one inbox, so a view
is only ever touched by this thread. How the tunnel works is behind ``door``; how it looks is a view's.
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

from quictunnel.cli.views import Opened, printable
from quictunnel.errors import Error
from quictunnel.events import LOST, VISITOR, WARNING, ClientEvent
from quictunnel.shared.output import discard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from quictunnel.cli.door import Door, TunnelClient
    from quictunnel.cli.views import View

TICK: Final = 0.25
"""Seconds between looks at the numbers: quick enough to feel alive, slow enough to cost nothing."""
MAX_PENDING: Final = 1000
"""Events that may wait while stdout does not take them. Past it visitors' events are dropped and counted."""
MAX_PENDING_STATES: Final = 2 * MAX_PENDING
"""The same for all other events, which come once in a while and matter more; a client that flaps for hours
behind a stuck pipe must not grow either."""


class Inbox:
    """What the main thread is to look at. Puts never block and are safe in a signal and in any thread, which
    ``SimpleQueue`` promises and a lock, an Event or a Queue does not."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[ClientEvent | None] = queue.SimpleQueue()
        self._dropped = 0

    def stop(self) -> None:
        self._queue.put(None)

    def put(self, event: ClientEvent) -> None:
        if self._queue.qsize() >= (MAX_PENDING if event.kind == VISITOR else MAX_PENDING_STATES):
            self._dropped += 1
        else:
            self._queue.put(event)

    def get(self, timeout: float) -> ClientEvent | None:
        """The next event, or None when it is time to stop. Raises queue.Empty."""
        if self._dropped and self._queue.empty():
            return self._confession()
        return self._queue.get(timeout=timeout)

    def rest(self) -> list[ClientEvent]:
        """What is left when nothing more will come."""
        left: list[ClientEvent] = []
        while not self._queue.empty():
            event = self._queue.get()
            if event is not None:
                left.append(event)
        return [*left, self._confession()] if self._dropped else left

    def _confession(self) -> ClientEvent:
        count, self._dropped = self._dropped, 0
        return ClientEvent(WARNING, f"{count} events are not shown: this output was not read in time", time.time())


class Early:
    """Holds back what happens before the tunnel is open, because "ready" comes first. How the connection came to
    be is no news then; a warning is, and what happened to it since."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._lock = threading.Lock()
        self._held: deque[ClientEvent] = deque(maxlen=MAX_PENDING)
        self._is_open = False

    def put(self, event: ClientEvent) -> None:
        """Take an event, on the client's thread."""
        with self._lock:
            if self._is_open:
                self._inbox.put(event)
            elif event.kind == "connected":
                held = [earlier for earlier in self._held if earlier.kind == WARNING]
                self._held.clear()
                self._held.extend(held)
            else:
                self._held.append(event)

    def opened(self) -> None:
        """Pass on what was held back, and everything that follows."""
        with self._lock:
            self._is_open = True
            while self._held:
                self._inbox.put(self._held.popleft())


class Interrupts:
    """What Ctrl-C and SIGTERM mean: first stop in good order, then at once."""

    def __init__(self, inbox: Inbox, leave: Callable[[int], object] = os._exit) -> None:
        self._inbox = inbox
        self._leave = leave
        self._seen = False
        self._is_held = False
        self._came: int | None = None
        self.is_serving = False

    def __call__(self, number: int, _frame: FrameType | None = None) -> None:
        if self._is_held:
            self._came = number
            return
        if self._seen:
            self._leave(128 + number)  # as a shell reports a program that a signal ended
        self._seen = True
        if self.is_serving:
            self._inbox.stop()
        else:
            # Opening a tunnel blocks this thread; an exception is what ends it, as in any program.
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """What comes meanwhile is told at the end: for moments in which something is half made, of which nobody
        knows yet what there would be to end."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            if self._came is not None:
                self(self._came)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Signals come here. Only the main thread may ask for them; elsewhere whoever started it stops it."""
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
class Wanted:
    """What is to be exposed, and how."""

    port: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of ``forward()``."""

    @property
    def tcp(self) -> bool:
        return bool(self.options.get("unencrypted"))


def serve(
    door: Door,
    client: TunnelClient,
    wanted: Wanted,
    *,
    view: View,
    inbox: Inbox,
    interrupts: Interrupts,
    when_open: Callable[[Opened], bool] = lambda _: True,
) -> None:
    """Open the tunnel, show it until it is to stop, let it drain. Errors of the package pass through, and so
    does a KeyboardInterrupt while it opens.

    ``when_open`` is called once; when it returns False the tunnel is stopped again at once.
    """
    with closing(client), ExitStack() as subscription:
        early = Early(inbox)
        subscription.callback(client.subscribe(early.put))
        try:
            with door.forward(wanted.port, client=client, **wanted.options) as tunnel:
                interrupts.is_serving = True
                early.opened()
                with _surviving_a_closed_pipe():
                    opened = Opened(tunnel, wanted.port, has_tcp=wanted.tcp)
                    view.opened(opened)
                    if when_open(opened):
                        _watch(view, inbox, client)
                with _surviving_a_closed_pipe():
                    view.closing()
        finally:
            subscription.close()
            with _surviving_a_closed_pipe():
                for event in inbox.rest():
                    view.event(event)
                view.closed()


def _watch(view: View, inbox: Inbox, client: TunnelClient) -> None:
    """Show what happens until a signal comes.

    Raises the error that ended the client for good, such as AuthError for a token that was revoked; or Error when
    the tunnel alone has ended.
    """
    while True:
        try:
            event = inbox.get(TICK)
        except queue.Empty:
            view.tick()
            continue
        if event is None:
            return
        view.event(event)
        if event.kind in ("failed", "refused", LOST):
            failure = client.failure if event.kind != LOST else None
            raise type(failure or Error())(f"The tunnel is over: {printable(event.message)}")


@contextmanager
def _surviving_a_closed_pipe() -> Iterator[None]:
    """Whoever read our output left: that ends the showing, and the caller then stops the tunnel in good order."""
    try:
        yield
    except BrokenPipeError:
        if sys.stdout is not None:
            discard(sys.stdout)
