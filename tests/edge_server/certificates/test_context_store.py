"""Tests of the certificate that a name is served with, and that h2 never shares one unasked."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from edge_server.certificates import context_store
from edge_server.certificates.authority import DevelopmentAuthority
from edge_server.certificates.context_store import ContextStore
from quictunnel.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

DOMAIN = "tunnel.localhost"
Write = "Callable[..., tuple[Path, Path]]"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentAuthority:
    return DevelopmentAuthority.load_or_create(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def write(authority: DevelopmentAuthority, tmp_path: Path) -> Write:
    def write(*names: str) -> tuple[Path, Path]:
        chain, key = authority.issue(names)
        stem = names[0].replace("*", "any")
        (tmp_path / f"{stem}.pem").write_bytes(chain)
        (tmp_path / f"{stem}.key").write_bytes(key)
        return tmp_path / f"{stem}.pem", tmp_path / f"{stem}.key"

    return write


@pytest.fixture
def minting(authority: DevelopmentAuthority) -> ContextStore:
    made = ContextStore()
    assert made.add_ca(authority, DOMAIN) == {DOMAIN, f"*.{DOMAIN}"}
    return made


def meet(
    context: ssl.SSLContext,
    authority: DevelopmentAuthority,
    name: str,
    *,
    top: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> tuple[set[str], str | None, ssl.SSLObject]:
    """The names and the protocol that a real client sees."""
    client_context = ssl.create_default_context(cafile=str(authority.certificate))
    client_context.maximum_version = top
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = context.wrap_bio(to_server, to_client, server_side=True)
    done: set[ssl.SSLObject] = set()
    while len(done) < 2:
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    with contextlib.suppress(ssl.SSLWantReadError):
        server.unwrap()  # a session whose connection breaks is forgotten
    der = client.getpeercert(binary_form=True)
    assert der is not None
    found = (
        x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    return set(found.get_values_for_type(x509.DNSName)), client.selected_alpn_protocol(), client


def test_http1_shares_one_wildcard(minting: ContextStore, authority: DevelopmentAuthority) -> None:
    one, two = minting.context_for(f"a.{DOMAIN}", h2=False), minting.context_for(f"b.{DOMAIN}", h2=False)
    assert one is two
    assert one is not None
    assert meet(one, authority, f"a.{DOMAIN}")[:2] == ({DOMAIN, f"*.{DOMAIN}"}, "http/1.1")


def test_h2_gets_a_certificate_for_its_own_name_alone(
    minting: ContextStore, authority: DevelopmentAuthority
) -> None:
    one, two = minting.context_for(f"a.{DOMAIN}", h2=True), minting.context_for(f"b.{DOMAIN}", h2=True)
    assert one is not None
    assert one is not two
    assert one is minting.context_for(f"a.{DOMAIN}", h2=True)
    assert meet(one, authority, f"a.{DOMAIN}")[:2] == ({f"a.{DOMAIN}"}, "h2")


@pytest.mark.parametrize("name", ["other.example", f"a.b.{DOMAIN}", "localhost", "", f"x{DOMAIN}"])
def test_other_names_get_nothing(minting: ContextStore, name: str) -> None:
    assert not minting.h2_allowed(name)
    assert minting.context_for(name, h2=True) is None
    assert minting.context_for(name, h2=False) is None


@pytest.mark.parametrize("names", [("*.ops.example",), ("a.ops.example", "b.ops.example")])
def test_a_shared_certificate_of_the_operators_refuses_h2(
    write: Write, authority: DevelopmentAuthority, names: tuple[str, ...]
) -> None:
    made = ContextStore()
    assert made.add_files(*write(*names)) == set(names)
    context = made.context_for("a.ops.example", h2=False)
    assert context is not None
    assert meet(context, authority, "a.ops.example")[1] == "http/1.1"
    assert not made.h2_allowed("a.ops.example")
    assert made.context_for("a.ops.example", h2=True) is None
    assert made.context_for("x.a.ops.example", h2=False) is None


def test_the_operator_may_allow_it_knowingly(write: Write, authority: DevelopmentAuthority) -> None:
    made = ContextStore(allow_wildcard_h2=True)
    made.add_files(*write("*.ops.example"))
    assert made.h2_allowed("a.ops.example")
    assert not made.h2_allowed("a.other.example")
    context = made.context_for("a.ops.example", h2=True)
    assert context is not None
    assert meet(context, authority, "a.ops.example")[1] == "h2"


def test_a_certificate_of_its_own_is_preferred_and_allows_h2(
    write: Write, authority: DevelopmentAuthority
) -> None:
    made = ContextStore()
    made.add_files(*write("*.ops.example"))
    made.add_files(*write("own.ops.example"))
    assert made.h2_allowed("own.ops.example")
    for h2 in (True, False):
        context = made.context_for("own.ops.example", h2=h2)
        assert context is not None
        assert meet(context, authority, "own.ops.example")[0] == {"own.ops.example"}


def test_minting_beside_a_wildcard_of_the_operators(write: Write, authority: DevelopmentAuthority) -> None:
    made = ContextStore(allow_wildcard_h2=True)
    made.add_files(*write(f"*.{DOMAIN}"))
    made.add_ca(authority, DOMAIN)
    context = made.context_for(f"a.{DOMAIN}", h2=True)
    assert context is not None
    assert meet(context, authority, f"a.{DOMAIN}")[0] == {f"a.{DOMAIN}"}


def test_the_number_of_contexts_is_bounded(authority: DevelopmentAuthority) -> None:
    made = ContextStore(max_contexts=3)
    made.add_ca(authority, DOMAIN)
    first = made.context_for(f"n0.{DOMAIN}", h2=True)
    for number in range(10):
        made.context_for(f"n{number}.{DOMAIN}", h2=True)
        assert len(made._contexts) <= 3
    assert made.context_for(f"n0.{DOMAIN}", h2=True) is not first


def test_remembered_sessions_are_bounded(
    minting: ContextStore, authority: DevelopmentAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context_store, "MAX_SESSIONS", 5)
    name = f"a.{DOMAIN}"
    used = set()
    for _ in range(20):
        context = minting.context_for(name, h2=False)
        assert context is not None
        used.add(context)
        meet(context, authority, name, top=ssl.TLSVersion.TLSv1_2)
        assert context.session_stats()["number"] <= 5
    assert len(used) == 4


@pytest.mark.parametrize("top", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_ticket_is_given(minting: ContextStore, authority: DevelopmentAuthority, top: ssl.TLSVersion) -> None:
    context = minting.context_for(f"a.{DOMAIN}", h2=False)
    assert context is not None
    client = meet(context, authority, f"a.{DOMAIN}", top=top)[2]
    assert client.session is None or not client.session.has_ticket


def test_old_and_weak_tls_is_off(minting: ContextStore) -> None:
    context = minting.context_for(f"a.{DOMAIN}", h2=False)
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_files_that_are_not_there(write: Write, tmp_path: Path) -> None:
    cert, key = write("a.example")
    absent = tmp_path / "absent.pem"
    with pytest.raises(ConfigError, match=rf"^Cannot read the certificate {absent}: No such file or directory\.$"):
        ContextStore().add_files(absent, key)
    with pytest.raises(ConfigError, match=rf"^Cannot read the private key {absent}: No such file or directory\.$"):
        ContextStore().add_files(cert, absent)
    with pytest.raises(ConfigError, match=r"^Cannot read the certificate .*: Is a directory\.$"):
        ContextStore().add_files(tmp_path, key)


def test_files_that_are_wrong(write: Write, tmp_path: Path) -> None:
    cert, key = write("a.example")
    _, other = write("b.example")
    junk = tmp_path / "junk"
    junk.write_bytes(b"\0\xffjunk")
    with pytest.raises(ConfigError, match="does not belong to the certificate"):
        ContextStore().add_files(cert, other)
    with pytest.raises(ConfigError, match=r"^Not a PEM certificate"):
        ContextStore().add_files(junk, key)
    with pytest.raises(ConfigError, match=r"^Not a PEM private key"):
        ContextStore().add_files(cert, junk)
    with pytest.raises(ConfigError, match=r"^Not a PEM private key"):
        ContextStore().add_files(cert, cert)


def test_a_certificate_without_host_names(write: Write) -> None:
    with pytest.raises(ConfigError, match="names no host"):
        ContextStore().add_files(*write("127.0.0.1"))


def test_a_key_with_a_passphrase_is_refused_without_asking(write: Write, tmp_path: Path) -> None:
    cert, key = write("a.example")
    loaded = load_pem_private_key(key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(ConfigError, match="protected by a passphrase"):
        ContextStore().add_files(cert, locked)


def test_errors_are_one_line(write: Write, tmp_path: Path) -> None:
    cert, _ = write("a.example")
    with pytest.raises(ConfigError) as caught:
        ContextStore().add_files(cert, tmp_path / "absent")
    assert "\n" not in str(caught.value)


class TestReplacedFiles:
    """Certificate files that an external ACME client replaces while an edge runs."""

    def make(self, write: Write, *names: str) -> tuple[ContextStore, Path, Path]:
        made = ContextStore()
        cert, key = write(*names)
        made.add_files(cert, key)
        return made, cert, key

    def serial(self, made: ContextStore, authority: DevelopmentAuthority, name: str) -> int:
        context = made.context_for(name, h2=False)
        assert context is not None
        _, _, client = meet(context, authority, name)
        der = client.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number

    def test_a_new_pair_is_used_from_then_on(self, write: Write, authority: DevelopmentAuthority) -> None:
        made, _, _ = self.make(write, "*.ops.example")
        made.refresh()
        assert made.apply_refresh() == frozenset()
        before = self.serial(made, authority, "a.ops.example")
        write("*.ops.example")
        assert self.serial(made, authority, "a.ops.example") == before
        made.refresh()
        assert self.serial(made, authority, "a.ops.example") == before  # not before it is settled on the loop
        assert made.apply_refresh() == {"*.ops.example"}
        assert self.serial(made, authority, "a.ops.example") != before

    def test_half_a_replacement_is_not_used(self, write: Write, authority: DevelopmentAuthority) -> None:
        """The certificate is new and its key not yet: said once, and the old pair stays in use."""
        made, _, key = self.make(write, "*.ops.example")
        before = self.serial(made, authority, "a.ops.example")
        old_key = key.read_bytes()
        write("*.ops.example")
        new_key = key.read_bytes()
        key.write_bytes(old_key)
        with pytest.raises(ConfigError, match="does not belong"):
            made.refresh()
        made.refresh()
        assert made.apply_refresh() == frozenset()
        assert self.serial(made, authority, "a.ops.example") == before
        key.write_bytes(new_key)
        made.refresh()
        assert made.apply_refresh()
        assert self.serial(made, authority, "a.ops.example") != before

    @pytest.mark.parametrize("how", ["gone", "junk", "names"])
    def test_unusable_files_keep_the_old_certificate(
        self, write: Write, authority: DevelopmentAuthority, how: str
    ) -> None:
        made, cert, _ = self.make(write, "*.ops.example", "ops.example")
        before = self.serial(made, authority, "a.ops.example")
        if how == "gone":
            cert.unlink()
        elif how == "junk":
            cert.write_bytes(b"junk")
        else:
            other, _ = write("*.ops.example")
            assert other == cert
        with pytest.raises(ConfigError, match=cert.name):
            made.refresh()
        made.refresh()
        assert made.apply_refresh() == frozenset()
        assert self.serial(made, authority, "a.ops.example") == before


@pytest.mark.parametrize(
    "ciphers",
    ["ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES128-SHA256", "DHE+AESGCM", "AES128-GCM-SHA256", "ECDHE+AES256+SHA"],
)
def test_old_ciphers_are_refused(minting: ContextStore, ciphers: str) -> None:
    """CBC, and everything whose key outlives the connection."""
    context = minting.context_for(f"a.{DOMAIN}", h2=False)
    assert context is not None
    client_context = ssl.create_default_context()
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client_context.set_ciphers(ciphers)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=f"a.{DOMAIN}")
    server = context.wrap_bio(to_server, to_client, server_side=True)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with pytest.raises(ssl.SSLError, match=r"no shared cipher|NO_SHARED_CIPHER"):
        server.do_handshake()
