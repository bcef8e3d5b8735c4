"""``forward()``: one object that works under ``with`` and ``async with``, wherever it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from quictunnel.client import Binding, Client
from quictunnel.errors import InvalidError
from quictunnel.ticketfile import TicketFile

if TYPE_CHECKING:
    import os
    from types import TracebackType

    from quictunnel.tunnel import Tunnel

MAX_PORT: Final = 65535


class forward:  # noqa: N801 - a function to its users; a class so that it is both kinds of context manager
    """Expose a local port to the public while the ``with`` body runs.

    ::

        with quictunnel.forward(8000) as tunnel:
            print(tunnel.url)
            app.run(port=8000)

    The tunnel's own work runs on a background thread, so the body may block, and it works the same under
    ``with`` and ``async with``, in plain scripts, threads and running loops. When the body ends in any way,
    the public port is closed at once; visitors in flight get a few seconds to finish.

    Args:
        port: the local TCP port, dialled on 127.0.0.1 and ::1 for each visitor.
        unencrypted: also expose the port over plain TCP, on a public port number of its own.
        h2_enabled: offer HTTP/2 to TLS visitors; the local service must then speak HTTP/2 without TLS.
        ticket: a file that keeps the ticket of this tunnel: a program that is started again with it gets the same
            public name and port. Written when the tunnel opens; keep it as you keep a key.
        client: the connection to use; None means ``Client.from_env()``, shared by the whole process.

    Yields a :class:`Tunnel`. Raises InvalidError (arguments, a port that is forwarded already), ConfigError
    (no edge is configured, a file that is no ticket), AuthError (the edge refused the token) or
    EdgeUnavailableError (no edge within 10 seconds). Cancelling ``async with`` while it opens gives everything
    back.
    """

    def __init__(
        self,
        port: int,
        *,
        unencrypted: bool = False,
        h2_enabled: bool = False,
        ticket: str | os.PathLike[str] | None = None,
        client: Client | None = None,
    ) -> None:
        given: object = port  # what a caller really gave, whatever the annotation says
        if not isinstance(given, int) or isinstance(given, bool):
            raise InvalidError(
                f"The port argument should be an int, not {type(given).__name__}: the number of the local port."
            )
        if not 1 <= port <= MAX_PORT:
            raise InvalidError(f"Invalid port number {port}. A port lies between 1 and {MAX_PORT}.")
        if h2_enabled and unencrypted:
            raise InvalidError(
                "H2 can only be used with encrypted ports, because it is negotiated by TLS. "
                "Use h2_enabled=True without unencrypted=True."
            )
        self._port = port
        self._unencrypted = unencrypted
        self._h2 = h2_enabled
        self._ticket = None if ticket is None else TicketFile(ticket)
        self._client = client
        self._binding: Binding | None = None

    def _bind(self) -> Binding:
        if self._binding is not None:
            raise InvalidError("This forward() is in use already; call forward() again for another tunnel.")
        client = self._client or Client.from_env()
        self._binding = Binding(
            client, self._port, unencrypted=self._unencrypted, h2=self._h2, ticket=self._ticket
        )
        return self._binding

    def __enter__(self) -> Tunnel:
        binding = self._bind()
        try:
            return binding.open()
        except BaseException:
            self._binding = None
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        binding, self._binding = self._binding, None
        if binding is not None:
            binding.close()

    async def __aenter__(self) -> Tunnel:
        binding = self._bind()
        try:
            return await binding.open_async()
        except BaseException:
            self._binding = None
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        binding, self._binding = self._binding, None
        if binding is not None:
            await binding.close_async()
