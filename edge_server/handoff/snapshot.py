"""Snapshot of the names that were held last, in a file of the state directory (:data:`FILE`).

An edge that is started again keeps these names for clients who are on their way, as one that takes over does.

The file is written aside and moved into place, at most once in :data:`LOOK` seconds and at the stop, so a crash
leaves the whole of what was written last. It is not forced to the disk: what was written outlives the process, and
a crash of the machine, which may damage it, usually lasts longer than the file is of use. The time of the file
says until when the edge was there. Its content is sealed with the key of the tickets: this edge has written it,
for this domain.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edge_server.ingress.ip_filter import IpFilter
from edge_server.tunnels.tickets import MAX_GENERATION, NONCE
from edge_server.tunnels.tunnel_record import TunnelRecord
from quictunnel.shared.address import MAX_PORT
from quictunnel.shared.files import new_file
from quictunnel.wire.labels import RANDOM_LABEL, domain_validation_error, validation_error
from quictunnel.wire.messages import PROGRAM_SIZE

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.ingress.tcp_ports import TcpPorts
    from edge_server.tunnels.lease import Lease
    from edge_server.tunnels.ownership import NameOwnership
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.tunnels.registry import Registry
    from quictunnel.shared.supervision import Supervisor

logger = logging.getLogger(__name__)

FILE: Final = "last-held"
HEAD: Final = b"quictunnel last-held "
"""First bytes of the file; its version, the end of the line and the sealed content follow."""
VERSION: Final = b"1\n"
WORK: Final = "noting which names are held"
LOOK: Final = 0.5
"""Seconds between looks at what is held, and so between two writes: as much as a crash forgets of claims."""
STAMP: Final = 10.0
"""Seconds after which the file says once more that the edge is still there: a sixth of :data:`MAX_AGE`, so little
of that is lost, and so seldom that a disk may sleep in between."""
RETURN: Final = 15.0
"""Seconds for which a name is kept. Clients who were told are back within about a second; one with nothing to say
notices a crash by its keep-alive, within five, and a dial that was in vain is repeated in a few more."""
MAX_AGE: Final = 60.0
"""Seconds since a client was there, above which it is not waited for: its visitors know that it is away, and by
then it has itself pauses of many seconds between its dials."""
MAX_NAMES: Final = 10_000
"""Names in the file; further ones are not waited for. Twice as many as an edge has room for (OPERATIONS.md)."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Bytes of the file: :data:`MAX_NAMES` with a few networks each, fewer with hundreds of networks each."""
MAX_OWNER: Final = 64
_SLACK: Final = 4096
"""Bytes of :data:`MAX_BYTES` for all that is no entry."""


class SnapshotEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One name."""

    name: TunnelRecord
    left: int
    """Time at which its client was last there (seconds since the epoch); 0: as long as the edge was."""


class Sheet(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The sealed content of the file."""

    is_last: bool
    """Written at the stop: nothing was given since."""
    entries: Annotated[list[SnapshotEntry], msgspec.Meta(max_length=MAX_NAMES)]


class _Written(msgspec.Struct, array_like=True, frozen=True):
    """A Sheet, put together of entries that were encoded one by one."""

    is_last: bool
    entries: list[msgspec.Raw]


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Sheet)


class UnusableError(Exception):
    """The file is of no use; the message says why."""


@dataclass(frozen=True, slots=True)
class _Frozen:
    """A name at the beginning of the end, and who held it."""

    leases: tuple[Lease, ...]
    entry: SnapshotEntry

    @property
    def is_wanted(self) -> bool:
        """Return True if its owner has not given it up."""
        return not all(lease.is_given_up for lease in self.leases)


class LastHeld:
    """Reads the file (:meth:`expect`), then keeps it (:meth:`keep`) until this edge hands over (:meth:`leave`) or
    stops (:meth:`stopping`, :meth:`close`)."""

    def __init__(
        self,
        directory: Path,
        key: bytes,
        domain: str,
        *,
        registry: Registry,
        pending: PendingTunnels,
        claims: NameOwnership,
        tokens: TokenRegistry,
        ports: TcpPorts,
        supervisor: Supervisor,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``key``: the key of the tickets, which seals the file for this domain."""
        self._path = directory / FILE
        self._cipher = AESGCM(key)
        self._registry = registry
        self._pending = pending
        self._claims = claims
        self._tokens = tokens
        self._ports = ports
        self._supervisor = supervisor
        self._now = now
        self._context = HEAD + VERSION + domain.encode()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="last-held")
        self._task: asyncio.Task[None] | None = None
        self._frozen: list[_Frozen] | None = None
        self._seen = -1
        """Changes of the registry that are in the file."""
        self._inode = 0
        self._stamped = float("-inf")
        self._told = ""

    # At the start.

    async def expect(self) -> None:
        """Keep the names of the file for their clients (``expected``), if they were there a moment ago and may
        still have them. To be done before anybody is accepted."""
        try:
            entries = self._read()
        except UnusableError as error:
            logger.warning("%s is not used, and nobody waited for: %s", self._path, error)
            return
        count = 0
        for entry in entries:
            if abs(self._now() - entry.left) <= MAX_AGE and self._is_theirs(entry.name):
                sock = self._port_of(entry.name)
                await self._pending.add(entry.name, sock, seconds=RETURN, left=entry.left)
                count += 1
        if entries:
            logger.info("of %d names that were held last, %d are kept for their clients", len(entries), count)

    def _read(self) -> list[SnapshotEntry]:
        """Return the entries of the file, each with the time of its client. Raises UnusableError."""
        try:
            with self._path.open("rb") as file:
                content, at = file.read(MAX_BYTES + 1), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnusableError(error.strerror or str(error)) from None
        sheet = self._open(content)
        return [
            SnapshotEntry(_trusted(entry.name, is_last=sheet.is_last), entry.left or int(at))
            for entry in sheet.entries
        ]

    def _open(self, content: bytes) -> Sheet:
        if len(content) > MAX_BYTES:
            raise UnusableError(f"it has more than {MAX_BYTES} bytes")
        if not content.startswith(HEAD + VERSION):
            is_ours = content.startswith(HEAD)
            raise UnusableError("it is of another version of quictunnel" if is_ours else "it is damaged")
        sealed = content[len(HEAD + VERSION) :]
        try:
            plain = self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], self._context)
            sheet = _decoder.decode(plain)
        except (InvalidTag, ValueError, msgspec.MsgspecError):  # ValueError: too short for a nonce
            raise UnusableError("it is damaged, or of another --domain or ticket.key") from None
        names = [entry.name.name for entry in sheet.entries]
        ports = [entry.name.port for entry in sheet.entries if entry.name.port]
        if len(set(names)) < len(names) or len(set(ports)) < len(ports):
            raise UnusableError("it says twice who held a name, or a port")
        for entry in sheet.entries:
            if not _is_possible(entry):
                raise UnusableError("it says what cannot be")
        return sheet

    def _is_theirs(self, name: TunnelRecord) -> bool:
        """Return True if the owner of a name would still get it."""
        tokens, owner = self._tokens, self._claims.owner(name.name)
        identity = tokens.identity(name.owner)
        if identity is None:
            return False
        if RANDOM_LABEL.fullmatch(name.name):
            return owner is None  # else it is banned: nobody claims such a name
        return owner == name.owner and tokens.name_refusal(identity, name.name) is None

    def _port_of(self, name: TunnelRecord) -> socket.socket | None:
        """The listening socket of its TCP port, if it is to have one and may."""
        port = name.port
        if not port:
            return None
        identity = self._tokens.identity(name.owner)
        allowed = None if identity is None else identity.rights.tcp_ports
        may = self._claims.is_free_to(name.owner, port) and (allowed is None or port in allowed)
        sock = self._ports.bind_exact(port, name.owner) if may else None
        if sock is None:
            logger.info("%s is kept for its client without port %d, which is not to be had", name.name, port)
        return sock

    # While it serves.

    def keep(self) -> None:
        """Note from now on what is held."""
        self._task = self._supervisor.keep_running(self._run, WORK)

    def leave(self) -> None:
        """The file is a successor's from now on."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def stopping(self) -> None:
        """From now on sessions end because this edge does: what is held now is held until the end, unless its
        owner gives it up meanwhile."""
        self._frozen = [
            _Frozen(tuple(lease.pool.members) if lease.pool is not None else (lease,), self._entry(lease))
            for lease in self._registry
        ]

    async def close(self) -> None:
        """Write what is held, for the last time. To be done before sessions are ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
            await self._attempt(is_last=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._seen != self._registry.changes or loop.time() >= self._stamped + STAMP:
                await self._attempt(is_last=False)
            await asyncio.sleep(LOOK)

    async def _attempt(self, *, is_last: bool) -> None:
        try:
            await self._look(is_last=is_last)
        except OSError as error:
            self._tell(f"{self._path} cannot be written ({error.strerror or error}).")

    async def _look(self, *, is_last: bool) -> None:
        changes = self._registry.changes
        write = self._stamp
        if is_last or changes != self._seen:
            entries = self._entries()
            write = lambda: self._write(entries, is_last=is_last)  # noqa: E731 - one of two things to do
        loop = asyncio.get_running_loop()
        self._seen = changes if await loop.run_in_executor(self._thread, write) else -1
        self._stamped = loop.time()

    def _entries(self) -> list[SnapshotEntry]:
        if self._frozen is not None:
            return [frozen.entry for frozen in self._frozen if frozen.is_wanted]
        return [self._entry(lease) for lease in self._registry]

    def _entry(self, lease: Lease) -> SnapshotEntry:
        left = 0 if lease.session is not None else round(self._pending.left(lease))
        return SnapshotEntry(TunnelRecord.of(lease, lease.tcp_port), left)

    # In the thread.

    def _write(self, entries: Iterable[SnapshotEntry], *, is_last: bool) -> bool:
        written: list[msgspec.Raw] = []
        size = _SLACK
        for entry in entries:
            raw = _encode(entry)
            size += len(raw)
            if size > MAX_BYTES or len(written) >= MAX_NAMES:
                self._tell(f"More names are held than {self._path} takes.")
                break
            written.append(msgspec.Raw(raw))
        nonce = os.urandom(NONCE)
        sealed = self._cipher.encrypt(nonce, _encode(_Written(is_last, written)), self._context)
        # One name for what is written aside, so that crashes leave at most one such file behind.
        aside = self._path.with_name(f".{FILE}")
        aside.unlink(missing_ok=True)
        with new_file(aside) as file:
            file.write(HEAD + VERSION + nonce + sealed)
        os.utime(aside, (self._now(),) * 2)
        self._inode = aside.stat().st_ino
        aside.replace(self._path)
        return True

    def _stamp(self) -> bool:
        """Update the time of the file. Returns False if it is not this edge's own any more."""
        try:
            if self._path.stat().st_ino == self._inode:
                os.utime(self._path, (self._now(),) * 2)
                return True
        except FileNotFoundError:
            pass  # as with another's: it is written again
        return False

    def _tell(self, what: str) -> None:
        """Once."""
        if self._told != what:
            self._told = what
            logger.warning("%s After a restart, visitors who come before their clients will be refused.", what)


def _trusted(name: TunnelRecord, *, is_last: bool) -> TunnelRecord:
    """Return a name with what still holds of it. It may have gone to a newer program in the moment before a
    crash. That of a chosen name has tickets which count from one again: those of before are not to keep it out."""
    if is_last:
        return name
    if RANDOM_LABEL.fullmatch(name.name):
        return msgspec.structs.replace(name, is_first_ask=False)
    return msgspec.structs.replace(name, generation=0, program=b"", is_first_ask=False)


def _is_possible(entry: SnapshotEntry) -> bool:
    """Return True if an edge can have written that entry."""
    name = entry.name
    if "." in name.name:
        is_name = domain_validation_error(name.name) is None
    else:
        is_name = bool(RANDOM_LABEL.fullmatch(name.name)) or validation_error(name.name) is None
    try:
        IpFilter(name.terms.allow, name.terms.deny)
    except ValueError:
        return False
    return (
        is_name
        and 0 < len(name.owner) <= MAX_OWNER
        and 0 <= name.generation <= MAX_GENERATION
        and 0 <= name.port <= MAX_PORT
        and len(name.program) <= PROGRAM_SIZE
        and 0 <= name.terms.proxy_protocol <= 2
        and entry.left >= 0
    )
