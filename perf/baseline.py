"""The baseline of the comparisons: copy loops over plain ``aioquic.asyncio`` streams.

It is a program that aioquic's documentation suggests: ``serve`` and ``connect`` with default settings, one QUIC
stream per TCP connection, and a reader and a writer copied into each other in both directions. It accepts one
client, has no names and no tokens, and cannot reconnect. A visitor must send first, because an empty stream is not
announced.

One addition makes measurements possible. A stream's writer in aioquic has no backpressure, so a fast sender
buffers without end and the copy becomes very slow (aioquic deletes from the head of one long bytearray). ``--brake
BYTES`` (default 256 KiB) waits while more is unsent, which makes the baseline faster, not slower; ``--brake 0``
disables it.

    python -m perf.baseline edge   --dir DIR --quic 4500 --public 5300
    python -m perf.baseline client --dir DIR --quic 4500 --origin 5201

Each prints one line when it is ready. The edge writes its CA to DIR.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

import trustme
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamAdapter
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

ALPN = ["baseline"]
CHUNK = 64 * 1024
POLL = 0.001  # seconds between looks at a stream's unsent bytes

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def adapter_of(writer: asyncio.StreamWriter) -> QuicStreamAdapter:
    """Return the transport of a stream's writer."""
    assert isinstance(writer.transport, QuicStreamAdapter)
    return writer.transport


def unsent(writer: asyncio.StreamWriter) -> int:
    """Return the bytes that a QUIC stream has not sent yet. It reads private attributes, because there is no
    public one."""
    adapter = adapter_of(writer)
    stream = adapter.protocol._quic._streams.get(adapter.stream_id)  # noqa: SLF001  # see above
    return len(stream.sender._buffer) if stream else 0  # noqa: SLF001  # see above


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, brake: int = 0) -> None:
    """Copy until the end. ``brake`` is for a writer that is a QUIC stream: the unsent bytes at which to wait."""
    # Whatever goes wrong on the other side ends this direction, as it does in any such program.
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
            while brake and unsent(writer) > brake:  # noqa: ASYNC110  # there is no event to wait for
                await asyncio.sleep(POLL)
        writer.write_eof()


async def splice(tcp: Pair, quic: Pair, brake: int) -> None:
    """Copy between a TCP connection and a QUIC stream in both directions, until both have ended."""
    await asyncio.gather(copy(tcp[0], quic[1], brake), copy(quic[0], tcp[1]))
    tcp[1].close()


async def edge(directory: Path, quic: int, public: int, brake: int) -> None:
    """Run the edge: accept one client, and open a stream to it for each public connection."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(directory / "baseline-ca.pem")
    leaf.private_key_pem.write_to_path(directory / "baseline-key.pem")
    leaf.cert_chain_pems[0].write_to_path(directory / "baseline-leaf.pem")
    settings = QuicConfiguration(is_client=False, alpn_protocols=ALPN)
    settings.load_cert_chain(directory / "baseline-leaf.pem", directory / "baseline-key.pem")
    joined: asyncio.Future[QuicConnectionProtocol] = asyncio.get_running_loop().create_future()

    def greeted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle the client's first stream, which identifies its connection."""
        if not joined.done():
            joined.set_result(adapter_of(writer).protocol)

    async def visit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = await (await joined).create_stream()
        stream[1].write(b"")  # claims the stream's number, which create_stream leaves free
        await splice((reader, writer), stream, brake)

    await serve("127.0.0.1", quic, configuration=settings, stream_handler=greeted)
    async with await asyncio.start_server(visit, "127.0.0.1", public):
        print(f"edge ready: QUIC {quic}, public {public}", flush=True)
        await joined
        print("client joined", flush=True)
        await asyncio.Event().wait()


async def client(directory: Path, quic: int, origin: int, brake: int) -> None:
    """Run the client: dial the origin for each stream."""
    settings = QuicConfiguration(is_client=True, alpn_protocols=ALPN, server_name="localhost")
    settings.load_verify_locations(str(directory / "baseline-ca.pem"))
    running: set[asyncio.Task[None]] = set()

    async def dial(stream: Pair) -> None:
        await splice(await asyncio.open_connection("127.0.0.1", origin), stream, brake)

    def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(dial((reader, writer)))
        running.add(task)
        task.add_done_callback(running.discard)

    async with connect("127.0.0.1", quic, configuration=settings, stream_handler=visited) as protocol:
        _, greeting = await protocol.create_stream()
        greeting.write(b"here")
        print("client ready", flush=True)
        await protocol.wait_closed()


def main() -> None:
    """Run the edge or the client until Ctrl-C."""
    parser = argparse.ArgumentParser(description="The baseline: a tunnel over plain aioquic.asyncio streams.")
    parser.add_argument("role", choices=["edge", "client"])
    parser.add_argument("--dir", type=Path, required=True, help="where the certificate authority is kept")
    parser.add_argument("--quic", type=int, default=4500, help="UDP port of the edge")
    parser.add_argument("--public", type=int, default=5300, help="TCP port that visitors come to (edge)")
    parser.add_argument("--origin", type=int, default=5201, help="TCP port that is exposed (client)")
    parser.add_argument("--brake", type=int, default=256 * 1024, help="unsent bytes to wait at; 0: none")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        if options.role == "edge":
            asyncio.run(edge(options.dir, options.quic, options.public, options.brake))
        else:
            asyncio.run(client(options.dir, options.quic, options.origin, options.brake))


if __name__ == "__main__":
    main()
