"""TLS to an origin: the client's side of a handshake, after which the origin's transport joins a splice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar, cast

from quictunnel.transport.lingering_close import LingeringClose
from quictunnel.transport.tcp import reset
from quictunnel.transport.tls_records import Bios, TlsProtocolError, TlsRecords
from quictunnel.transport.tls_transport import TlsTransport

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

P = TypeVar("P", bound=asyncio.BaseProtocol)

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for the handshake with a local service: far more than a busy one needs."""


class OriginTlsError(Exception):
    """Error of a handshake with an origin."""

    def __init__(self, reason: str, certificate_error: str = "") -> None:
        """``certificate_error`` is the reason why its certificate is not valid; empty for any other failure."""
        super().__init__(reason)
        self.certificate_error = certificate_error


class EarlyBytes(asyncio.Protocol):
    """Protocol of the TCP connection until TLS begins: keeps what a server sends before it was asked."""

    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        """Keep the bytes of one turn of the loop; the handshake begins in the next one."""
        self.data += data


class TlsDialer:
    """Starts TLS on connections to one origin. All of them share one pair of buffers (see ``tls_records``)."""

    def __init__(self, context: ssl.SSLContext, server_name: str) -> None:
        self._context = context
        self._server_name = server_name
        self._bios = Bios()

    async def handshake(self, raw: asyncio.Transport, early: EarlyBytes, factory: Callable[[], P]) -> P:
        """Complete a handshake and return the protocol above it, which ``factory`` creates then.

        Raises OriginTlsError. The connection is closed then, and when this is cancelled.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        protocols: list[P] = []

        def create_protocol() -> asyncio.Protocol:
            protocols.append(factory())
            return cast("asyncio.Protocol", protocols[0])  # a transport calls it as one

        transport = TlsTransport(
            raw,
            TlsRecords(self._context, self._bios, server_name=self._server_name),
            create_protocol,
            loop=loop,
            server_name=self._server_name,
            # Called before the protocol is created, in the same turn of the loop.
            on_handshake_done=lambda _: None if done.done() else done.set_result(None),
            close_with_alert=_close_with_alert,
        )
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                transport.begin(early.data)
                await done
        except TimeoutError:
            reset(raw)
            raise OriginTlsError(f"not complete within {HANDSHAKE_TIMEOUT:.0f} s") from None
        except BaseException:
            reset(raw)
            raise
        if not protocols:
            raise _error_of(transport)
        return protocols[0]


def _close_with_alert(raw: asyncio.Transport, alert: bytes) -> None:
    LingeringClose(raw, alert, loop=asyncio.get_running_loop())


def _error_of(transport: TlsTransport) -> OriginTlsError:
    error = transport.handshake_error
    if isinstance(error, TlsProtocolError):
        return OriginTlsError(str(error).replace("_", " "), error.certificate_error)
    return OriginTlsError("the connection was closed during the handshake")
