"""Tracing of QUIC connections to qlog files (transport.qlog): of all, or of single sessions that an operator
chose.

A traced session is traced on each of its links, with one file for each link, until the operator stops the trace,
the session ends, or a file reaches its size limit. Tracing costs nothing while the session has no link.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

from quictunnel.errors import ConfigError
from quictunnel.transport.qlog import NotTracedError, tracer_of

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.transport.endpoint import Endpoint
    from quictunnel.transport.qlog import Trace, Tracer
    from quictunnel.transport.session import Session

logger = logging.getLogger(__name__)

DIRECTORY: Final = "qlog"
"""Directory in the state directory for the files of single sessions, if ``--qlog`` names no other one."""


class TracedSession(Protocol):
    """A client's session as the tracing uses it."""

    session: Session
    trace: SessionTrace | None
    """The operator's trace of the session; None if it is not traced."""

    @property
    def peer(self) -> str:
        """Return the client's address."""


class QlogTracing:
    """Starts and ends the traces of connections of one endpoint."""

    def __init__(self, endpoint: Endpoint, state_dir: Path) -> None:
        self._endpoint = endpoint
        self._directory = state_dir / DIRECTORY
        self._tracer_of_all: Tracer | None = None

    def trace_all(self, tracer: Tracer | None) -> None:
        """Trace every new connection; with None only the connections of sessions that an operator chose."""
        self._tracer_of_all = tracer
        self._endpoint.trace(tracer)

    def begin(self, client: TracedSession) -> Path | None:
        """Begin to trace a session.

        Returns:
            The file, or None if the session has no link now; a file is then created with its next link.

        Raises:
            NotTracedError: no file can be written.
        """
        trace = SessionTrace(self, client)
        trace.begin()
        client.trace = trace
        return trace.file

    def end(self, client: TracedSession) -> Path | None:
        """End the tracing of a session, unless ``--qlog`` traces all; return its newest file."""
        trace, client.trace = client.trace, None
        self._endpoint.untrace_one(client.session.link.connection)
        return trace.file if trace is not None else None

    @staticmethod
    def is_chosen(client: TracedSession) -> bool:
        """Return True if an operator chose this session to be traced."""
        return client.trace is not None and not client.trace.is_over

    def file_of(self, client: TracedSession) -> Path | None:
        """Return the file to which the session's connection is traced now, by either kind of trace; else None."""
        trace = self._endpoint.trace_of(client.session.link.connection)
        return trace.path if trace is not None else None

    def trace_link(self, client: TracedSession) -> Trace:
        """Trace the link of a session that has one. Raises NotTracedError."""
        try:
            tracer = self._tracer_of_all or tracer_of(self._directory)
        except ConfigError as error:
            raise NotTracedError(str(error)) from None
        return self._endpoint.trace_one(client.session.link.connection, tracer)


class SessionTrace:
    """The tracing of one session, over its links."""

    def __init__(self, tracing: QlogTracing, client: TracedSession) -> None:
        self._tracing = tracing
        self._client = client
        self._trace: Trace | None = None

    @property
    def file(self) -> Path | None:
        """Return the newest file; None while the session has not had a link."""
        return self._trace.path if self._trace is not None else None

    @property
    def is_over(self) -> bool:
        """Return True if a file has reached its size limit, after which no more files are written."""
        return self._trace is not None and self._trace.is_cut

    def begin(self) -> None:
        """Trace the current link, if there is one. Raises NotTracedError."""
        if not self._client.session.is_away:
            self._trace = self._tracing.trace_link(self._client)

    def resume(self) -> None:
        """Trace the new link of a resumed session."""
        if self.is_over:
            return
        try:
            self.begin()
        except NotTracedError as error:
            logger.error("a session of the client at %s is no longer traced: %s", self._client.peer, error)
            self._client.trace = None
