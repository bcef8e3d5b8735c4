"""A DNS server that takes signed updates (RFC 2136, TSIG) of one zone, by TCP and UDP: small, real on the wire."""

from __future__ import annotations

import contextlib
import socketserver
import struct
import threading
from typing import TYPE_CHECKING

import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import dns.tsig
import dns.tsigkeyring

if TYPE_CHECKING:
    from collections.abc import Iterator


class Zone:
    """The records of a zone, and the key that may change them. Every name has the address 127.0.0.1. For names
    outside the zone it answers like a resolver."""

    def __init__(self, name: str, key: str, secret: bytes, algorithm: str) -> None:
        self.name = dns.name.from_text(name)
        self.keyring = {dns.name.from_text(key): dns.tsig.Key(dns.name.from_text(key), secret, algorithm)}
        self.records: dict[dns.name.Name, set[str]] = {}
        self.aliases: dict[dns.name.Name, dns.name.Name] = {}
        self.wildcard: dns.name.Name | None = None
        """Target of the alias for names below the zone that have no record."""
        self.asked: list[str] = []
        """For which names and types."""
        self.log: list[str] = []
        self.port = 0
        self.is_deaf = False
        """Answers nothing."""

    def answer(self, wire: bytes) -> bytes | None:
        if self.is_deaf:
            return None
        try:
            message = dns.message.from_wire(wire, keyring=self.keyring)
        except (dns.tsig.BadSignature, dns.message.UnknownTSIGKey, dns.tsig.BadKey):
            message = dns.message.from_wire(wire, keyring=False, continue_on_error=True)
            reply = dns.message.make_response(message)
            reply.set_rcode(dns.rcode.NOTAUTH)
            return reply.to_wire()
        reply = dns.message.make_response(message)
        if message.opcode() == dns.opcode.UPDATE:
            reply.set_rcode(self._update(message))
        else:
            self._look_up(message, reply)
        return reply.to_wire()

    def _update(self, message: dns.message.Message) -> dns.rcode.Rcode:
        if not message.had_tsig:
            return dns.rcode.REFUSED
        if message.sections[0][0].name != self.name:
            return dns.rcode.NOTAUTH
        if any(condition.name not in self.aliases for condition in message.sections[1]):
            return dns.rcode.NXRRSET
        for change in message.sections[2]:
            if change.name in self.aliases:
                continue  # RFC 2136 section 3.4.2.2
            values = self.records.setdefault(change.name, set())
            for record in change:
                text = b"".join(record.strings).decode()
                is_deletion = change.deleting == dns.rdataclass.NONE
                (values.discard if is_deletion else values.add)(text)
                self.log.append(f"{'clear' if is_deletion else 'set'} {change.name.to_text(omit_final_dot=True)}")
        return dns.rcode.NOERROR

    def _look_up(self, message: dns.message.Message, reply: dns.message.Message) -> None:
        question = message.question[0]
        self.asked.append(f"{dns.rdatatype.to_text(question.rdtype)} {question.name}")
        name = question.name
        while (target := self._target(name)) is not None:
            reply.answer.append(dns.rrset.from_text(name, 1, "IN", "CNAME", target.to_text()))
            name = target
            if question.rdtype == dns.rdatatype.CNAME:
                return
        if question.rdtype == dns.rdatatype.TXT and (values := self.records.get(name)):
            reply.answer.append(dns.rrset.from_text(name, 1, "IN", "TXT", *(f'"{v}"' for v in values)))
        elif question.rdtype == dns.rdatatype.A:
            reply.answer.append(dns.rrset.from_text(name, 1, "IN", "A", "127.0.0.1"))

    def alias(self, name: str, target: str) -> None:
        self.aliases[dns.name.from_text(name)] = dns.name.from_text(target)

    def _target(self, name: dns.name.Name) -> dns.name.Name | None:
        if name in self.aliases or not name.is_subdomain(self.name) or name == self.name or self.records.get(name):
            return self.aliases.get(name)
        return self.wildcard


@contextlib.contextmanager
def serving(zone: Zone) -> Iterator[Zone]:
    class Datagram(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            wire, sock = self.request
            if (answer := zone.answer(wire)) is not None:
                sock.sendto(answer, self.client_address)

    class Stream(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            (size,) = struct.unpack("!H", self.rfile.read(2))
            if (answer := zone.answer(self.rfile.read(size))) is not None:
                self.wfile.write(struct.pack("!H", len(answer)) + answer)

    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with (
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stream) as tcp,
        socketserver.ThreadingUDPServer(("127.0.0.1", tcp.server_address[1]), Datagram) as udp,
    ):
        zone.port = tcp.server_address[1]
        threads = [threading.Thread(target=server.serve_forever, args=(0.05,)) for server in (tcp, udp)]
        for thread in threads:
            thread.start()
        try:
            yield zone
        finally:
            tcp.shutdown()
            udp.shutdown()
            for thread in threads:
                thread.join()
