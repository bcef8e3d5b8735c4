"""The native engine: quinn-proto through the extension module ``quictunnel_native``.

The extension does all expensive work. This module translates settings and events, and holds the connection
objects.
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
from quictunnel.transport.engines.native_version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from quictunnel.transport.engine import Address, EngineSettings, Event, Limits, Received

logger = logging.getLogger(__name__)

# Characters of a reason phrase: a longer one does not fit every packet.
MAX_REASON: Final = 256
# The algorithm for ``auto``; docs/PERFORMANCE.md has the measurements.
DEFAULT_CONGESTION: Final = "bbr"
# Distinct faults to log.
MAX_FAULTS: Final = 64
NO_STATS: Final = Stats(0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0)


class NativeConnection:
    """Connection of a :class:`NativeEngine`. Implements :class:`quictunnel.transport.engine.Connection`."""

    __slots__ = ("_address", "_engine", "_last_stats", "_number", "is_client", "is_forgotten")

    def __init__(self, engine: Any, number: int, address: Address, *, is_client: bool) -> None:
        self._engine = engine
        self._number = number
        self._address = address
        self._last_stats = NO_STATS
        self.is_client = is_client
        self.is_forgotten = False

    @property
    def address(self) -> Address:
        """The peer's current address."""
        self._address = self._engine.address(self._number) or self._address
        return self._address

    def open(self) -> int | None:
        """Open a stream and return its number, or None if the peer allows no more now."""
        stream: int | None = self._engine.open(self._number)
        return stream

    def write(self, stream: int, data: bytes | memoryview) -> int:
        """Queue data on a stream and return how many bytes were taken."""
        taken: int = self._engine.write(self._number, stream, data)
        return taken

    def finish(self, stream: int) -> None:
        """End a stream's sending direction after the queued data."""
        self._engine.finish(self._number, stream)

    def reset(self, stream: int, code: int) -> None:
        """Abort a stream's sending direction with an error code."""
        self._engine.reset(self._number, stream, code)

    def stop(self, stream: int, code: int) -> None:
        """Ask the peer to stop sending on a stream, with an error code."""
        self._engine.stop(self._number, stream, code)

    def prioritise(self, stream: int) -> None:
        """Send a stream's data before that of ordinary streams."""
        self._engine.prioritise(self._number, stream)

    def admit(self) -> None:
        """Raise the limits of a peer that has authenticated."""
        self._engine.admit(self._number)

    def ping(self) -> None:
        """Send a PING to elicit an acknowledgement."""
        self._engine.ping(self._number)

    def migrate(self) -> None:
        """Continue on the socket's new local address (RFC 9000 section 9)."""
        self._engine.migrate(self._number)

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection with an application error code."""
        self._engine.close(self._number, code, _printable(reason).encode("ascii"))

    def stats(self) -> Stats:
        """Return the current statistics, or the last ones of a closed connection."""
        found = self._engine.stats(self._number)
        if found is not None:
            self._last_stats = Stats(*found)
        return self._last_stats

    def forget(self) -> None:
        """Mark the connection as forgotten by the engine."""
        self.is_forgotten = True


class NativeEngine:
    """Implementation of :class:`quictunnel.transport.engine.Engine` with quinn-proto."""

    name = "native"
    version = VERSION

    def __init__(self, settings: EngineSettings, *, random: Callable[[int], bytes] = os.urandom) -> None:
        """Create an engine.

        ``random`` generates the reset key if the settings have none; quinn-proto has its own random numbers.

        Raises:
            ConfigError: a certificate or key cannot be read.
        """
        given = _translated(settings, random)
        try:
            self._engine = quictunnel_native.Engine(given)
        except ValueError as error:
            raise ConfigError(_read_error(settings, error)) from error
        self._connections: dict[int, NativeConnection] = {}
        self._by_cause: dict[CloseCause, int] = {}
        self._faults: set[str] = set()

    @property
    def counters(self) -> EngineCounters:
        """The engine's counters."""
        counts = self._engine.counters()
        counts.pop("panics")
        evicted = counts.pop("strangers_replaced")
        return EngineCounters(**counts, unadmitted_evicted=evicted, by_cause=self._by_cause)

    def connect(self, address: Address, server_name: str, now: float) -> NativeConnection:
        """Begin a client connection. Raises ConfigError for an invalid server name."""
        try:
            number = self._engine.connect(address, server_name, now)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        connection = NativeConnection(self._engine, number, address, is_client=True)
        self._connections[number] = connection
        return connection

    def receive(self, batch: Sequence[Received], now: float) -> None:
        """Process a batch of received datagrams."""
        self._engine.receive(batch, now)

    def expire(self, now: float) -> None:
        """Process all timers that are due."""
        self._engine.expire(now)

    def timeout(self) -> float | None:
        """Return the time of the next timer, or None."""
        deadline: float | None = self._engine.timeout()
        return deadline

    def poll(self) -> list[tuple[NativeConnection, Event]]:
        """Return the events since the last call, with their connections."""
        events: list[tuple[NativeConnection, Event]] = []
        connections = self._connections
        for number, kind, *rest in self._engine.poll():
            connection = connections.get(number)
            if kind == "Data":
                if connection is not None:
                    stream, data, end = rest
                    events.append((connection, Data(stream, [data] if data else [], end)))
            elif kind == "Gone":
                if connection is not None:
                    connection.forget()
                    del connections[number]
            elif kind == "Connected":
                if connection is None:
                    connection = NativeConnection(self._engine, number, rest[0], is_client=False)
                    connections[number] = connection
                events.append((connection, Connected()))
            elif kind == "Fault":
                self._report(*rest)
            elif kind == "Closed":
                closed = self._closed(*rest)
                if connection is not None:
                    events.append((connection, closed))
            elif connection is not None:
                events.append((connection, _EVENTS[kind](*rest)))
        return events

    def transmit(self, now: float) -> Iterator[Transmit]:
        """Yield the datagrams that are to be sent now."""
        self._engine.transmit(now)
        # One at a time, so that each burst is sent while it is still in the processor's caches.
        while (burst := self._engine.next_burst()) is not None:
            datagrams, segment, address = burst
            yield Transmit((datagrams,), segment, address)

    def has_connections(self) -> bool:
        """Return True while a connection is open or closing."""
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
        """Log each distinct fault once. Otherwise a peer that can cause a fault could fill the disk."""
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
    """Return text without control characters, for terminals and logs."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in reason[:MAX_REASON])


def _translated(settings: EngineSettings, random: Callable[[int], bytes]) -> dict[str, object]:
    """Return the settings as the extension expects them."""
    certificate = private_key = b""
    authorities: list[bytes] = []
    if settings.is_server:
        if settings.certificate is None or settings.private_key is None:
            raise ConfigError("The server side of QUIC needs a certificate and its private key; none was given.")
        try:
            certificate = settings.certificate.read_bytes()
            private_key = settings.private_key.read_bytes()
        except OSError as error:
            raise ConfigError(_read_error(settings, error)) from error
    elif not settings.pin:
        authorities = _authorities(settings)
    elif not getattr(quictunnel_native, "PINS_AUTHORITIES", False):
        # It would ignore the pin.
        raise ConfigError(
            f"quictunnel-native {quictunnel_native.__version__} is too old for a credential: install the newest "
            "one, or set QUICTUNNEL_ENGINE=aioquic."
        )
    return {
        "is_server": settings.is_server,
        "alpn": settings.alpn.encode(),
        "certificate": certificate,
        "private_key": private_key,
        "authorities": authorities,
        "pin": settings.pin,
        "idle_timeout": settings.idle_timeout,
        "handshake_timeout": settings.handshake_timeout,
        "max_strangers": settings.max_unadmitted,
        "replaced_code": settings.eviction_code,
        "retry": settings.retry,
        "ack_delay": settings.ack_delay,
        "reset_key": settings.reset_key or random(32),
        "stranger": _limits(settings.unadmitted),
        "trusted": _limits(settings.trusted),
        "first_window": settings.first_window,
        "send_buffer": settings.send_buffer,
        "largest_datagram": settings.largest_datagram or settings.datagram_size,
        "max_probe_timeout": settings.max_probe_timeout,
        "key_update_packets": settings.key_update_packets,
        "cid_mark": settings.cid_prefix,
        "congestion": DEFAULT_CONGESTION if settings.congestion == "auto" else settings.congestion,
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
        raise ConfigError(_read_error(settings, error)) from error


def _system_store() -> list[bytes]:
    """Return the system's trusted certificates. A directory of certificates is read only if there is no bundle."""
    context = ssl.create_default_context()
    found = list(context.get_ca_certs(binary_form=True))
    folder = ssl.get_default_verify_paths().capath
    if not found and folder is not None:
        for path in sorted(Path(folder).glob("*.[0-9]")):
            try:
                found += quictunnel_native.read_certificates(path.read_bytes())
            except (OSError, ValueError):
                continue  # an unreadable file is ignored; an empty result is an error later
    return found


def _read_error(settings: EngineSettings, error: Exception) -> str:
    if settings.is_server:
        return (
            f"The certificate {settings.certificate} or its key {settings.private_key} cannot be read: "
            f"{error}. Both must be PEM files, the key without a passphrase."
        )
    if settings.pin:
        return f"The fingerprint of the certificate authority cannot be used: {error}."
    authority = settings.authority or "of this system"
    return f"The certificate authority {authority} cannot be read: {error}. It must be a PEM file."
