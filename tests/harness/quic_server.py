"""A QUIC server with a given certificate, for tests of the handshake."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quictunnel.shared.event_loop import EventLoopThread
from quictunnel.transport.endpoint import Endpoint
from quictunnel.transport.engine import EngineSettings
from quictunnel.transport.engines import create_engine
from quictunnel.transport.udp import UdpSocket
from quictunnel.wire.codes import ALPN

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    import trustme


@contextmanager
def quic_server(
    certificate: trustme.LeafCert, directory: Path, *, alpn: str = ALPN, sock: socket.socket | None = None
) -> Iterator[str]:
    """Run the server during a ``with`` block; yield its ``host:port``."""
    chain, key = directory / "leaf.pem", directory / "leaf.key"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    settings = EngineSettings(is_server=True, alpn=alpn, certificate=chain, private_key=key)

    async def start() -> Endpoint:
        udp = UdpSocket.bind(("127.0.0.1", 0)) if sock is None else UdpSocket.adopt(sock)
        return Endpoint(create_engine(settings), udp, on_connection=lambda _: NullEvents())

    async def stop() -> None:
        endpoint.abort()

    background = EventLoopThread("quic-server")
    try:
        endpoint = background.call(start())
        try:
            yield "{}:{}".format(*endpoint.local_address[:2])
        finally:
            background.call(stop())
    finally:
        background.stop()


class NullEvents:
    """Connection events that are ignored."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_options: None
