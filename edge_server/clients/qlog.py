"""What QUIC connections do, in files (transport.qlog): of all of them where ``--qlog`` says so, of one session
where an operator asks for it.

A session that is traced stays so on whatever link it has, with a file for each: until the request is withdrawn,
the session ends, or a file is cut short. It costs nothing while it has no link.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from quictunnel.errors import ConfigError
from quictunnel.transport.qlog import NotTracedError, tracer_of

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.clients.session import ClientSession
    from quictunnel.transport.endpoint import Endpoint
    from quictunnel.transport.qlog import Trace, Tracer

logger = logging.getLogger(__name__)

DIRECTORY: Final = "qlog"
"""In the state directory; where files go that were asked for while ``--qlog`` names no place."""


class QlogRecorder:
    """See the module."""

    def __init__(self, endpoint: Endpoint, state_dir: Path) -> None:
        self._endpoint = endpoint
        self._own = state_dir / DIRECTORY
        self._everything: Tracer | None = None

    def trace_all(self, tracer: Tracer | None) -> None:
        """Of every connection, from now on; None: of those of sessions alone that somebody has asked for."""
        self._everything = tracer
        self._endpoint.trace(tracer)

    def begin(self, guest: ClientSession) -> Path | None:
        """Trace a session. The file that it goes to now; None: that begins when it has a link again. Raises
        NotTracedError."""
        wish = SessionTrace(self, guest)
        wish.begin()
        guest.trace = wish
        return wish.file

    def end(self, guest: ClientSession) -> Path | None:
        """Do so no more, unless all connections are traced. The newest file."""
        wish, guest.trace = guest.trace, None
        self._endpoint.untrace_one(guest.session.link.connection)
        return wish.file if wish is not None else None

    @staticmethod
    def is_asked_for(guest: ClientSession) -> bool:
        """Whether a session is traced for its own sake."""
        return guest.trace is not None and not guest.trace.is_over

    def file_of(self, guest: ClientSession) -> Path | None:
        """What is being written of it, whoever asked."""
        trace = self._endpoint.trace_of(guest.session.link.connection)
        return trace.path if trace is not None else None

    def trace_link(self, guest: ClientSession) -> Trace:
        """Of a session that has a link. Raises NotTracedError."""
        try:
            tracer = self._everything or tracer_of(self._own)
        except ConfigError as error:
            raise NotTracedError(str(error)) from None
        return self._endpoint.trace_one(guest.session.link.connection, tracer)


class SessionTrace:
    """One session that somebody has asked for."""

    def __init__(self, tracing: QlogRecorder, guest: ClientSession) -> None:
        self._tracing = tracing
        self._guest = guest
        self._trace: Trace | None = None

    @property
    def file(self) -> Path | None:
        """The newest; none while it has not had a link."""
        return self._trace.path if self._trace is not None else None

    @property
    def is_over(self) -> bool:
        """A file was cut short: those that follow would not say more of what was looked for."""
        return self._trace is not None and self._trace.is_cut

    def begin(self) -> None:
        """With the link that it has, if it has one. Raises NotTracedError."""
        if not self._guest.session.is_away:
            self._trace = self._tracing.trace_link(self._guest)

    def go_on(self) -> None:
        """The session has another link."""
        if self.is_over:
            return
        try:
            self.begin()
        except NotTracedError as error:
            logger.error("a session of the client at %s is traced no more: %s", self._guest.peer, error)
            self._guest.trace = None
