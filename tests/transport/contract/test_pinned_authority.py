"""Guarantees about an authority that a client knows by its fingerprint: for each pairing of engines."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from quictunnel.errors import ConfigError
from quictunnel.transport.engine import CloseCause, Closed, Connected
from quictunnel.transport.engines import create_engine
from tests.transport.engine_pair import EDGE, settings_for
from tests.transport.engine_pairings import each_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.transport.engine_pair import Pair

UNKNOWN_CA = 0x100 + 48
BAD_CERTIFICATE = 0x100 + 42
EXPIRED = 0x100 + 45


def pin_of(authority: trustme.CA) -> bytes:
    certificate = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


class Site:
    """A pair of engines whose edge has a certificate of ``signer``, and sends those of ``sent`` along."""

    def __init__(self, make_pair: Callable[..., Pair], directory: Path) -> None:
        self.authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self._make_pair = make_pair
        self._directory = directory

    def connect(
        self, signer: trustme.CA, *sent: trustme.CA, pin: bytes, name: str = "edge.test", **leaf: Any
    ) -> Pair:
        issued = signer.issue_cert("edge.test", key_type=trustme.KeyType.ECDSA, **leaf)
        certificate, key = self._directory / "chain.pem", self._directory / "chain.key"
        own = b"".join(each.bytes() for each in issued.cert_chain_pems)
        certificate.write_bytes(own + b"".join(each.cert_pem.bytes() for each in sent))
        issued.private_key_pem.write_to_path(str(key))
        files = {"certificate": certificate, "private_key": key}
        pair = self._make_pair(client={"authority": None, "pin": pin}, edge=files)
        pair.connection = pair.client.engine.connect(EDGE, name, pair.now)
        pair.run(lambda: bool(pair.client.events), limit=10)
        return pair


@pytest.fixture
def site(make_pair: Callable[..., Pair], tmp_path: Path) -> Site:
    return Site(make_pair, tmp_path)


def refused(pair: Pair) -> int:
    """Return the code with which the client has refused the edge."""
    (closed,) = pair.client.events
    assert isinstance(closed, Closed)
    assert closed.cause is CloseCause.HANDSHAKE
    pair.settle()
    assert Connected() not in pair.edge.events, "nothing of the client's is delivered to such an edge"
    return closed.code


def test_pinned_authority_is_taken_from_the_chain(site):
    pair = site.connect(site.authority, site.authority, pin=pin_of(site.authority))
    assert pair.client.events[0] == Connected()


def test_authority_below_others_in_the_chain(site):
    pair = site.connect(site.authority, trustme.CA(), site.authority, pin=pin_of(site.authority))
    assert pair.client.events[0] == Connected()


def test_chain_without_the_authority(site):
    assert refused(site.connect(site.authority, pin=pin_of(site.authority))) == UNKNOWN_CA


def test_another_authority(site):
    other = trustme.CA()
    assert refused(site.connect(other, other, pin=pin_of(site.authority))) == UNKNOWN_CA


def test_a_copy_of_the_authority_does_not_help_another_one(site):
    """The authority's certificate is public: who intercepts can send it, and has no leaf that it has signed."""
    other = trustme.CA()
    code = refused(site.connect(other, other, site.authority, pin=pin_of(site.authority)))
    assert code in (UNKNOWN_CA, BAD_CERTIFICATE)


def test_only_the_first_certificates_of_a_chain_are_compared(site):
    others = [trustme.CA(key_type=trustme.KeyType.ECDSA) for _ in range(8)]
    assert refused(site.connect(site.authority, *others, site.authority, pin=pin_of(site.authority))) == UNKNOWN_CA


def test_pinned_leaf_is_not_an_authority(site):
    leaf = site.authority.issue_cert("edge.test")
    pin = hashlib.sha256(
        x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).public_bytes(Encoding.DER)
    ).digest()
    assert refused(site.connect(site.authority, site.authority, pin=pin)) == UNKNOWN_CA


@pytest.mark.parametrize("name", ["other.test", "203.0.113.9"])
def test_another_name(site, name):
    pair = site.connect(site.authority, site.authority, pin=pin_of(site.authority), name=name)
    assert refused(pair) == BAD_CERTIFICATE


@pytest.mark.parametrize("days", [(-9, -2), (2, 9)])
def test_leaf_outside_its_validity(site, days):
    begin, end = (dt.datetime.now(dt.UTC) + dt.timedelta(days=day) for day in days)
    chain = (site.authority, site.authority)
    assert refused(site.connect(*chain, pin=pin_of(site.authority), not_before=begin, not_after=end)) == EXPIRED


@each_engine
@pytest.mark.parametrize("pin", [b"short", bytes(33)], ids=["short", "long"])
def test_fingerprint_of_another_size(paths, name, pin):
    with pytest.raises(ConfigError, match="32 bytes"):
        create_engine(settings_for("client", paths, authority=None, pin=pin), name)
