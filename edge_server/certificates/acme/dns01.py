"""TXT records for dns-01, set by dynamic update (RFC 2136) or by a hook command of the operator.

Both block, and run in the thread of an order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING, Final, Protocol

import dns.exception
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.resolver
import dns.tsig
import dns.update

from edge_server.certificates.acme.errors import AcmeError, printable
from edge_server.certificates.acme.settings import read_secret
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.certificates.acme.settings import AcmeSettings, DnsUpdates

DNS_TIMEOUT: Final = 10.0
"""Seconds for one query or update."""
HOOK_TIMEOUT: Final = 120.0
"""Seconds for one call of the hook: it may wait for its provider's servers."""
MAX_CHECKS: Final = 10
"""Queries, half a second apart, whether the server that accepted a record serves it."""
MAX_ALIASES: Final = 8
"""CNAME records to follow in a chain: delegations have one or two, and resolvers of CAs give up soon after
that."""
TTL: Final = 60
"""Seconds for which resolvers may cache the record."""
HOOK_ENVIRONMENT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")
"""Environment variables that a hook gets. Tokens and all others are none of its concern."""
MAX_STDERR: Final = 4096
"""Bytes of a hook's standard error that are read."""


class Zone(Protocol):
    """A zone in which records are set. Both methods raise AcmeError."""

    def set(self, name: str, value: str) -> None:
        """Add a TXT record beside others of the same name."""

    def clear(self, name: str, value: str) -> None:
        """Remove this record; it may be missing."""


def zone_of(settings: AcmeSettings, is_stopping: Callable[[float], bool]) -> Zone:
    """Return the zone that the settings describe. ``is_stopping`` waits for a number of seconds or until the edge
    stops, and returns True if it stops."""
    if settings.updates is not None:
        return Updates(settings.updates, is_stopping)
    return Hook(settings.hook, is_stopping)


class Updates:
    """A zone with dynamic updates (RFC 2136), signed by TSIG (RFC 8945).

    The name of a record may be an alias (CNAME) into that zone, which a CA follows (RFC 8555 section 8.4).
    The zone of the domain itself then needs no change.
    """

    def __init__(self, settings: DnsUpdates, is_stopping: Callable[[float], bool]) -> None:
        """Read nothing yet; the key is read for each update."""
        self._settings = settings
        self._zone = dns.name.from_text(settings.zone)
        self._is_stopping = is_stopping
        self._targets: dict[str, dns.name.Name] = {}
        """Owner name by record name. When a record is removed its alias may have changed or be unresolvable."""

    def set(self, name: str, value: str) -> None:
        """Add the record, and wait until the server serves it. Raises AcmeError."""
        target = self._targets[name] = self._target(name)
        update = self._change()
        update.add(target, TTL, "TXT", f'"{value}"')
        self._send(update, target)
        for _ in range(MAX_CHECKS):
            if self._is_served(target, value) or self._is_stopping(0.5):
                return
        host, port = self._settings.server
        raise AcmeError(
            f"The name server {host}:{port} accepted the record {_text(target)} but does not serve it."
        )

    def clear(self, name: str, value: str) -> None:
        """Remove the record, if :meth:`set` got as far as adding it. Raises AcmeError."""
        target = self._targets.get(name)
        if target is not None:  # else the record was never added
            update = self._change()
            update.delete(target, "TXT", f'"{value}"')
            self._send(update, target)

    def _target(self, name: str) -> dns.name.Name:
        """Return the owner name of the record: the name itself, or the end of its alias chain. Raises
        AcmeError."""
        path = [dns.name.from_text(name)]
        while (target := self._alias_of(path[-1])) is not None:
            if target in path:
                raise AcmeError(f"The alias {name} (CNAME) loops back to {_text(target)}.")
            path.append(target)
            if len(path) > MAX_ALIASES + 1:
                raise AcmeError(f"The alias {name} (CNAME) has a chain of more than {MAX_ALIASES} records.")
        target, zone = path[-1], self._settings.zone
        if target.is_subdomain(self._zone):
            return target
        if len(path) == 1:
            raise AcmeError(
                f"{name} is not in the zone {zone} and is no alias (CNAME) into it: set the right zone "
                "(--acme-dns-zone), or create the alias."
            )
        raise AcmeError(
            f"{name} is an alias (CNAME) of {_text(target)}, which is not in the zone {zone}: set the right zone "
            "(--acme-dns-zone), or correct the alias."
        )

    def _alias_of(self, name: dns.name.Name) -> dns.name.Name | None:
        """Return the target of an alias; None if the name is not one. Within the zone its own server is asked,
        whose records are current; elsewhere the resolver."""
        if not name.is_subdomain(self._zone):
            return self._resolved(name)
        response = self._query(dns.message.make_query(name, "CNAME"))
        found = response.get_rrset(response.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if found is None:
            return None
        # A record from a wildcard (*.DOMAIN) is replaced by the one that is added. The prerequisite of an update
        # matches explicit records of the zone only (RFC 2136 section 2.4.1).
        update = self._change()
        update.present(name, "CNAME")
        is_written = self._query(update).rcode() == dns.rcode.NOERROR
        return found[0].target if is_written else None

    def _resolved(self, name: dns.name.Name) -> dns.name.Name | None:
        server = self._settings.resolver
        try:
            resolver = dns.resolver.Resolver(configure=server is None)
            if server is not None:
                resolver.nameservers, resolver.port = [_address(server[0])], server[1]
            found = resolver.resolve(name, "CNAME", search=False, lifetime=DNS_TIMEOUT)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return None
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise AcmeError(
                f"{_text(name)} is not in the zone {self._settings.zone}, and looking up an alias (CNAME) "
                f"failed: {printable(error)}"
            ) from None
        target: dns.name.Name = found[0].target
        return target

    def _change(self) -> dns.update.UpdateMessage:
        """Return a signed, empty update of the zone. Raises AcmeError if the key cannot be read."""
        settings = self._settings
        try:
            key = dns.tsig.Key(
                dns.name.from_text(settings.key),
                read_secret(settings.secret, "--acme-dns-secret"),
                dns.name.from_text(settings.algorithm),
            )
        except ConfigError as error:
            raise AcmeError(str(error)) from None
        return dns.update.UpdateMessage(self._zone, keyring=key)

    def _send(self, update: dns.update.UpdateMessage, target: dns.name.Name) -> None:
        response = self._query(update)
        if response.rcode() != dns.rcode.NOERROR:
            host, port = self._settings.server
            why = dns.rcode.to_text(response.rcode())
            raise AcmeError(
                f"The name server {host}:{port} refused to update {_text(target)} ({why}); check that the key may "
                "update that zone."
            )

    def _is_served(self, target: dns.name.Name, value: str) -> bool:
        response = self._query(dns.message.make_query(target, "TXT"))
        found = response.get_rrset(response.answer, target, dns.rdataclass.IN, dns.rdatatype.TXT)
        return found is not None and any(b"".join(record.strings) == value.encode() for record in found)

    def _query(self, message: dns.message.Message) -> dns.message.Message:
        host, port = self._settings.server
        try:
            # TCP: a signed update may exceed a datagram, and responses cannot be spoofed.
            return dns.query.tcp(message, _address(host), timeout=DNS_TIMEOUT, port=port)
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise AcmeError(f"The name server {host}:{port} sent no valid response: {printable(error)}.") from None


def _text(name: dns.name.Name) -> str:
    return printable(name.to_text(omit_final_dot=True))


def _address(host: str) -> str:
    """Return a numeric address, as dnspython requires."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


class Hook:
    """A hook command, called as ``COMMAND set|clear NAME VALUE``; exit status 0 means success."""

    def __init__(
        self, command: tuple[str, ...], is_stopping: Callable[[float], bool], *, timeout: float = HOOK_TIMEOUT
    ) -> None:
        """``timeout``: seconds for one call."""
        self._command = command
        self._is_stopping = is_stopping
        self._timeout = timeout

    def set(self, name: str, value: str) -> None:
        """Add the record. Raises AcmeError."""
        self._call("set", name, value)

    def clear(self, name: str, value: str) -> None:
        """Remove the record. Raises AcmeError."""
        self._call("clear", name, value)

    def _call(self, action: str, name: str, value: str) -> None:
        command = self._command[0]
        # Standard error goes to a file: a full pipe would block the command, and only a part is read.
        with tempfile.TemporaryFile() as stderr:
            try:
                process = subprocess.Popen(
                    [*self._command, action, name, value],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env={name: os.environ[name] for name in HOOK_ENVIRONMENT if name in os.environ},
                    start_new_session=os.name == "posix",
                )
            except OSError as error:
                raise AcmeError(f"--acme-dns-hook {command} cannot be run: {error.strerror or error}.") from None
            status = self._wait(process, is_cleanup=action == "clear")
            if status is None:
                raise AcmeError(
                    f"--acme-dns-hook {command} {action} took longer than {self._timeout:g} s and was killed."
                )
            if status:
                stderr.seek(0)
                text = printable(stderr.read(MAX_STDERR).decode(errors="replace"))
                raise AcmeError(
                    f"--acme-dns-hook {command} {action} exited with status {status}: {text or 'no message'}"
                )

    def _wait(self, process: subprocess.Popen[bytes], *, is_cleanup: bool) -> int | None:
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            try:
                return process.wait(0.05)
            except subprocess.TimeoutExpired:
                # The removal of a record goes on while the edge stops.
                if self._is_stopping(0.0) and not is_cleanup:
                    break
        _kill(process)
        return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and its children."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
