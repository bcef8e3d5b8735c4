"""TXT records for dns-01: put into a zone by RFC 2136, or by a command of the operator's.

Both block, and are called in an order's thread.
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

from edge_server.certificates.acme.errors import AcmeError, said
from edge_server.certificates.acme.settings import read_secret
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.certificates.acme.settings import AcmeSettings, DnsUpdates

DNS_TIMEOUT: Final = 10.0
"""Seconds for one dialogue with the name server."""
HOOK_TIMEOUT: Final = 120.0
"""Seconds for one call of the hook: it may wait until its provider's servers know."""
SEEN_TRIES: Final = 10
"""How often it is looked, half a second apart, whether the server that took a record has it."""
MAX_ALIASES: Final = 8
"""CNAME records that are followed one after the other: delegations have one or two, and resolvers of authorities
give up after some more."""
TTL: Final = 60
"""Seconds that caches keep a record which is gone in a minute."""
PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT")
"""What a hook gets of the edge's environment. Neither tokens nor what else is in it are its business."""
MAX_COMPLAINT: Final = 4096
"""Bytes of a hook's standard error that are looked at."""


class Zone(Protocol):
    """Where records are put. Both raise Problem."""

    def set(self, name: str, value: str) -> None:
        """Add a TXT record beside others of the name."""

    def clear(self, name: str, value: str) -> None:
        """Remove that one; it may be gone already."""


def zone_of(settings: AcmeSettings, is_stopping: Callable[[float], bool]) -> Zone:
    """As the operator wants it. ``is_stopping`` waits for so many seconds or until the edge stops."""
    if settings.updates is not None:
        return Updates(settings.updates, is_stopping)
    return Hook(settings.hook, is_stopping)


class Updates:
    """A zone that takes dynamic updates (RFC 2136), signed (TSIG, RFC 8945).

    The name of a record may be an alias (CNAME) into that zone, which an authority follows (RFC 8555 section 8.4):
    then the zone of the domain itself need not be changed."""

    def __init__(self, settings: DnsUpdates, is_stopping: Callable[[float], bool]) -> None:
        self._settings = settings
        self._zone = dns.name.from_text(settings.zone)
        self._is_stopping = is_stopping
        self._places: dict[str, dns.name.Name] = {}
        """Where records of a name were put: when they are removed, an alias may be gone, or not be found."""

    def set(self, name: str, value: str) -> None:
        place = self._places[name] = self._place(name)
        update = self._change()
        update.add(place, TTL, "TXT", f'"{value}"')
        self._send(update, place)
        for _ in range(SEEN_TRIES):
            if self._has(place, value) or self._is_stopping(0.5):
                return
        host, port = self._settings.server
        raise AcmeError(f"The name server {host}:{port} took the record {_text(place)} and does not show it.")

    def clear(self, name: str, value: str) -> None:
        place = self._places.get(name)
        if place is not None:  # else it did not come to it
            update = self._change()
            update.delete(place, "TXT", f'"{value}"')
            self._send(update, place)

    def _place(self, name: str) -> dns.name.Name:
        """Where the record belongs: at the name, or where its alias leads."""
        path = [dns.name.from_text(name)]
        while (target := self._alias(path[-1])) is not None:
            if target in path:
                raise AcmeError(f"The alias {name} (CNAME) leads in a circle, back to {_text(target)}.")
            path.append(target)
            if len(path) > MAX_ALIASES + 1:
                raise AcmeError(f"The alias {name} (CNAME) leads over more than {MAX_ALIASES} others.")
        place, zone = path[-1], self._settings.zone
        if place.is_subdomain(self._zone):
            return place
        if len(path) == 1:
            raise AcmeError(
                f"{name} is not in the zone {zone}, and is no alias (CNAME) into it: say the right one "
                "(--acme-dns-zone), or make the alias."
            )
        raise AcmeError(
            f"{name} is an alias (CNAME) of {_text(place)}, which is not in the zone {zone}: say the right one "
            "(--acme-dns-zone), or mend the alias."
        )

    def _alias(self, name: dns.name.Name) -> dns.name.Name | None:
        """What a name is an alias of. Within the zone its own server is asked, which knows no older answer, and
        elsewhere the resolver."""
        if not name.is_subdomain(self._zone):
            return self._resolved(name)
        answer = self._ask(dns.message.make_query(name, "CNAME"))
        found = answer.get_rrset(answer.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
        if found is None:
            return None
        # One that a wildcard makes (*.DOMAIN) gives way to the record that is put there. Conditions of an update
        # look at what is written in the zone alone (RFC 2136 section 2.4.1).
        update = self._change()
        update.present(name, "CNAME")
        is_written = self._ask(update).rcode() == dns.rcode.NOERROR
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
                f"{_text(name)} is not in the zone {self._settings.zone}, and whether it is an alias (CNAME) "
                f"could not be found out: {said(error)}"
            ) from None
        target: dns.name.Name = found[0].target
        return target

    def _change(self) -> dns.update.UpdateMessage:
        """One of the zone, signed, with nothing in it yet."""
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

    def _send(self, update: dns.update.UpdateMessage, place: dns.name.Name) -> None:
        answer = self._ask(update)
        if answer.rcode() != dns.rcode.NOERROR:
            host, port = self._settings.server
            why = dns.rcode.to_text(answer.rcode())
            raise AcmeError(
                f"The name server {host}:{port} refused to update {_text(place)} ({why}); may that key update "
                "that zone?"
            )

    def _has(self, place: dns.name.Name, value: str) -> bool:
        answer = self._ask(dns.message.make_query(place, "TXT"))
        found = answer.get_rrset(answer.answer, place, dns.rdataclass.IN, dns.rdatatype.TXT)
        return found is not None and any(b"".join(record.strings) == value.encode() for record in found)

    def _ask(self, message: dns.message.Message) -> dns.message.Message:
        host, port = self._settings.server
        try:
            # TCP: an update with a long signature need not fit into a datagram, and no answer can be forged.
            return dns.query.tcp(message, _address(host), timeout=DNS_TIMEOUT, port=port)
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise AcmeError(
                f"The name server {host}:{port} does not answer as it should: {said(error)}."
            ) from None


def _text(name: dns.name.Name) -> str:
    return said(name.to_text(omit_final_dot=True))


def _address(host: str) -> str:
    """dnspython wants a numeric one."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


class Hook:
    """A command: ``COMMAND set|clear NAME VALUE``, which has done it when it ends with 0."""

    def __init__(
        self, command: tuple[str, ...], is_stopping: Callable[[float], bool], *, timeout: float = HOOK_TIMEOUT
    ) -> None:
        self._command = command
        self._is_stopping = is_stopping
        self._timeout = timeout

    def set(self, name: str, value: str) -> None:
        self._call("set", name, value)

    def clear(self, name: str, value: str) -> None:
        self._call("clear", name, value)

    def _call(self, action: str, name: str, value: str) -> None:
        command = self._command[0]
        # A file takes whatever it says; what nobody reads would block it, and what is kept of it has a bound.
        with tempfile.TemporaryFile() as complaint:
            try:
                process = subprocess.Popen(
                    [*self._command, action, name, value],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=complaint,
                    env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
                    start_new_session=os.name == "posix",
                )
            except OSError as error:
                raise AcmeError(f"--acme-dns-hook {command} cannot be run: {error.strerror or error}.") from None
            status = self._wait(process, is_ending=action == "clear")
            if status is None:
                raise AcmeError(
                    f"--acme-dns-hook {command} {action} took longer than {self._timeout:g} s and was ended."
                )
            if status:
                complaint.seek(0)
                words = said(complaint.read(MAX_COMPLAINT).decode(errors="replace"))
                raise AcmeError(
                    f"--acme-dns-hook {command} {action} ended with {status}: {words or 'it did not say why'}"
                )

    def _wait(self, process: subprocess.Popen[bytes], *, is_ending: bool) -> int | None:
        deadline = time.monotonic() + self._timeout
        while time.monotonic() < deadline:
            try:
                return process.wait(0.05)
            except subprocess.TimeoutExpired:
                # To tidy up it is given a moment also while the edge stops.
                if self._is_stopping(0.0) and not is_ending:
                    break
        _kill(process)
        return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """It, and what it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
