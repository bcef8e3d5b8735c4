"""The native engine: quinn-proto behind the seam, through the extension module ``quictunnel_native``.

Everything that costs time happens over there. Here are the settings on their way in, events on their way out,
and the objects that callers hold.
"""

from __future__ import annotations

import codecs
import logging
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import quictunnel_native

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import (
    CloseCause,
    Closed,
    Connected,
    Data,
    EngineCounters,
    Reset,
    Stats,
    Stopped,
    StreamsAvailable,
    Transmit,
    Writable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quictunnel.transport.engine import Address, EngineSettings, Event, Limits, Received

logger = logging.getLogger(__name__)

# What the extension offers changes with its minor version; the extra ``native`` asks for the same.
WANTED: Final = "0.3."
if not quictunnel_native.__version__.startswith(WANTED):
    raise ImportError(f"quictunnel-native {quictunnel_native.__version__} is installed, {WANTED}* is needed")

# Reason phrases are for people; a longer one would not leave room for itself in every packet.
MAX_REASON: Final = 256
# What ``auto`` means; docs/PERFORMANCE.md has the table that decided it.
BEST_CONGESTION: Final = "bbr"
# Different faults that reach the log.
MAX_FAULTS: Final = 64
NOTHING: Final = Stats(0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)


class NativeConnection:
    """One connection of a :class:`NativeEngine`."""

    __slots__ = ("_address", "_engine", "_last_stats", "_number", "gone", "is_client")

    def __init__(self, engine: Any, number: int, address: Address, *, is_client: bool) -> None:
        self._engine = engine
        self._number = number
        self._address = address
        self._last_stats = NOTHING
        self.is_client = is_client
        self.gone = False

    @property
    def address(self) -> Address:
        self._address = self._engine.address(self._number) or self._address
        return self._address

    def open(self) -> int | None:
        stream: int | None = self._engine.open(self._number)
        return stream

    def write(self, stream: int, data: bytes | memoryview) -> int:
        taken: int = self._engine.write(self._number, stream, data)
        return taken

    def finish(self, stream: int) -> None:
        self._engine.finish(self._number, stream)

    def reset(self, stream: int, code: int) -> None:
        self._engine.reset(self._number, stream, code)

    def stop(self, stream: int, code: int) -> None:
        self._engine.stop(self._number, stream, code)

    def prioritise(self, stream: int) -> None:
        self._engine.prioritise(self._number, stream)

    def admit(self) -> None:
        self._engine.admit(self._number)

    def ping(self) -> None:
        self._engine.ping(self._number)

    def migrate(self) -> None:
        self._engine.migrate(self._number)

    def close(self, code: int, reason: str = "") -> None:
        self._engine.close(self._number, code, _printable(reason).encode("ascii"))

    def stats(self) -> Stats:
        found = self._engine.stats(self._number)
        if found is not None:
            self._last_stats = Stats(*found)
        return self._last_stats

    def leave(self) -> None:
        """It is about to be forgotten: keep what callers may still ask for."""
        self.gone = True


class NativeEngine:
    """:class:`quictunnel.transport.engine.Engine` on quinn-proto."""

    name = "native"
    version = f"{quictunnel_native.__version__} (quinn-proto {quictunnel_native.QUINN_PROTO_VERSION})"

    def __init__(self, settings: EngineSettings, *, random: Callable[[int], bytes] = os.urandom) -> None:
        """``random`` makes the reset key when there is none; quinn-proto has its own source for the rest."""
        given = _translated(settings, random)
        try:
            self._engine = quictunnel_native.Engine(given)
        except ValueError as error:
            raise ConfigError(_complaint(settings, error)) from error
        self._connections: dict[int, NativeConnection] = {}
        self._by_cause: dict[CloseCause, int] = {}
        self._faults: set[str] = set()

    @property
    def counters(self) -> EngineCounters:
        counts = self._engine.counters()
        counts.pop("panics")
        return EngineCounters(**counts, by_cause=self._by_cause)

    def connect(self, address: Address, server_name: str, now: float) -> NativeConnection:
        try:
            number = self._engine.connect(address, server_name, now)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        connection = NativeConnection(self._engine, number, address, is_client=True)
        self._connections[number] = connection
        return connection

    def receive(self, batch: Sequence[Received], now: float) -> None:
        self._engine.receive(batch, now)

    def expire(self, now: float) -> None:
        self._engine.expire(now)

    def timeout(self) -> float | None:
        deadline: float | None = self._engine.timeout()
        return deadline

    def poll(self) -> list[tuple[NativeConnection, Event]]:
        told: list[tuple[NativeConnection, Event]] = []
        connections = self._connections
        for number, kind, *rest in self._engine.poll():
            connection = connections.get(number)
            if kind == "Data":
                if connection is not None:
                    stream, data, end = rest
                    told.append((connection, Data(stream, [data] if data else [], end)))
            elif kind == "Gone":
                if connection is not None:
                    connection.leave()
                    del connections[number]
            elif kind == "Connected":
                if connection is None:
                    connection = NativeConnection(self._engine, number, rest[0], is_client=False)
                    connections[number] = connection
                told.append((connection, Connected()))
            elif kind == "Fault":
                self._report(*rest)
            elif kind == "Closed":
                closed = self._closed(*rest)
                if connection is not None:
                    told.append((connection, closed))
            elif connection is not None:
                told.append((connection, _EVENTS[kind](*rest)))
        return told

    def transmit(self, now: float) -> Iterator[Transmit]:
        self._engine.transmit(now)
        # One at a time: what was made last is sent while it is still in the processor's caches.
        while (burst := self._engine.next_burst()) is not None:
            datagrams, segment, address = burst
            yield Transmit((datagrams,), segment, address)

    def has_connections(self) -> bool:
        found: bool = self._engine.has_connections()
        return found

    def _closed(self, cause_name: str, code: int, reason: bytes) -> Closed:
        cause = CloseCause[cause_name]
        self._by_cause[cause] = self._by_cause.get(cause, 0) + 1
        text = _printable(reason.decode("utf-8", "replace"))
        if cause is CloseCause.INTERNAL:
            self._report(text)
        return Closed(cause, code, text)

    def _report(self, place: str) -> None:
        """Each fault once: whoever found out how to cause one could else fill the disk."""
        if place not in self._faults and len(self._faults) < MAX_FAULTS:
            self._faults.add(place)
            logger.error("A QUIC connection ended by a fault inside the engine: %s", _printable(place))


_EVENTS: Final[dict[str, Callable[..., Event]]] = {
    "Reset": Reset,
    "Stopped": Stopped,
    "Writable": Writable,
    "StreamsAvailable": StreamsAvailable,
}


def _printable(reason: str) -> str:
    """Text that cannot play tricks on a terminal or a log."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in reason[:MAX_REASON])


def _translated(settings: EngineSettings, random: Callable[[int], bytes]) -> dict[str, object]:
    """The settings as the extension wants them."""
    certificate = private_key = b""
    authorities: list[bytes] = []
    if settings.is_server:
        if settings.certificate is None or settings.private_key is None:
            raise ConfigError(
                "The accepting side of QUIC needs a certificate and its private key; none was given."
            )
        try:
            certificate = settings.certificate.read_bytes()
            private_key = settings.private_key.read_bytes()
        except OSError as error:
            raise ConfigError(_complaint(settings, error)) from error
    else:
        authorities = _authorities(settings)
    return {
        "is_server": settings.is_server,
        "alpn": settings.alpn.encode(),
        "certificate": certificate,
        "private_key": private_key,
        "authorities": authorities,
        "idle_timeout": settings.idle_timeout,
        "handshake_timeout": settings.handshake_timeout,
        "max_strangers": settings.max_strangers,
        "replaced_code": settings.replaced_code,
        "retry": settings.retry,
        "ack_delay": settings.ack_delay,
        "reset_key": settings.reset_key or random(32),
        "stranger": _limits(settings.stranger),
        "trusted": _limits(settings.trusted),
        "first_window": settings.first_window,
        "send_buffer": settings.send_buffer,
        "largest_datagram": settings.largest_datagram or settings.datagram_size,
        "max_probe_timeout": settings.max_probe_timeout,
        "key_update_packets": settings.key_update_packets,
        "cid_mark": settings.cid_mark,
        "congestion": BEST_CONGESTION if settings.congestion == "auto" else settings.congestion,
    }


def _limits(limits: Limits) -> tuple[int, int, int]:
    return limits.streams, limits.stream_window, limits.connection_window


def _authorities(settings: EngineSettings) -> list[bytes]:
    if settings.authority is None:
        return _system_store()
    try:
        pem = settings.authority.read_bytes().removeprefix(codecs.BOM_UTF8)
        return list(quictunnel_native.read_certificates(pem))
    except (OSError, ValueError) as error:
        raise ConfigError(_complaint(settings, error)) from error


def _system_store() -> list[bytes]:
    """What the system's owner trusts; a directory of certificates is read only where there is no bundle."""
    context = ssl.create_default_context()
    found = list(context.get_ca_certs(binary_form=True))
    folder = ssl.get_default_verify_paths().capath
    if not found and folder is not None:
        for path in sorted(Path(folder).glob("*.[0-9]")):
            try:
                found += quictunnel_native.read_certificates(path.read_bytes())
            except (OSError, ValueError):
                continue  # one unreadable file does not spoil the others; none at all is reported
    return found


def _complaint(settings: EngineSettings, error: Exception) -> str:
    if settings.is_server:
        return (
            f"The certificate {settings.certificate} or its key {settings.private_key} cannot be read: "
            f"{error}. Both have to be PEM files, the key without a passphrase."
        )
    place = settings.authority or "of this system"
    return f"The certificate authority {place} cannot be read: {error}. It has to be a PEM file."
