"""The development authority: made once, shared by all, and what it signs is trusted by real clients."""

from __future__ import annotations

import multiprocessing
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certs.__main__ import main, write_all
from edge_server.certificates.authority import MAX_NAMES, DevelopmentAuthority
from quictunnel.errors import ConfigError, InvalidError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_of(pem: bytes) -> list[str]:
    found = (
        x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )
    return [str(name.value) for name in found]


def accepts(ca: Path, chain: Path, key: Path, name: str) -> bool:
    """Return True if a client that trusts only ``ca`` completes a handshake for ``name``."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(chain, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context(cafile=str(ca)).wrap_bio(to_client, to_server, server_hostname=name)
    server = serving.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
    return client.version() is not None


def test_authority_is_made_once_and_reloaded(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    first = DevelopmentAuthority.load_or_create(home)
    assert first.certificate == home / "ca.pem"
    before = first.certificate.read_bytes()
    assert DevelopmentAuthority.load_or_create(home).certificate.read_bytes() == before
    assert mode(home) == 0o700
    assert mode(home / "ca.key") == 0o600
    assert sorted(path.name for path in home.iterdir()) == ["ca.key", "ca.pem"]
    assert isinstance(x509.load_pem_x509_certificate(before).public_key(), ec.EllipticCurvePublicKey)


def test_a_lost_or_wrong_public_half_is_written_again(tmp_path: Path) -> None:
    authority = DevelopmentAuthority.load_or_create(tmp_path)
    before = authority.certificate.read_bytes()
    authority.certificate.unlink()
    assert DevelopmentAuthority.load_or_create(tmp_path).certificate.read_bytes() == before
    authority.certificate.write_bytes(b"something else")
    assert DevelopmentAuthority.load_or_create(tmp_path).certificate.read_bytes() == before


def test_leaves_are_trusted_for_their_names_alone(tmp_path: Path) -> None:
    ca, chain, key, *_ = write_all(tmp_path, "tunnel.localhost")
    assert accepts(ca, chain, key, "x.tunnel.localhost")
    assert accepts(ca, chain, key, "tunnel.localhost")
    assert not accepts(ca, chain, key, "x.y.tunnel.localhost")
    assert not accepts(ca, chain, key, "tunnel.example")


def test_a_leaf_signed_after_a_reload_is_trusted_too(tmp_path: Path) -> None:
    ca, *_ = write_all(tmp_path, "one.test")
    _, chain, key, *_ = write_all(tmp_path, "two.test")
    assert accepts(ca, chain, key, "a.two.test")


def test_client_leaf_is_valid_with_any_clock(tmp_path: Path) -> None:
    authority = DevelopmentAuthority.load_or_create(tmp_path)
    chain, _ = authority.issue(["a.test"], as_long_as_the_authority=True)
    leaf = x509.load_pem_x509_certificate(chain)
    own = x509.load_pem_x509_certificate(authority.certificate.read_bytes())
    assert leaf.not_valid_before_utc == own.not_valid_before_utc
    assert leaf.not_valid_after_utc == own.not_valid_after_utc
    assert own.not_valid_before_utc.year <= 2000, "also of an edge that was first started without a battery"


def test_a_leaf_is_short_lived_and_elliptic(tmp_path: Path) -> None:
    chain, _ = DevelopmentAuthority.load_or_create(tmp_path).issue(["A.test", "127.0.0.1", "::1"])
    leaf = x509.load_pem_x509_certificate(chain)
    assert names_of(chain) == ["a.test", "127.0.0.1", "::1"]
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days <= 398
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert isinstance(key.curve, ec.SECP256R1)


@pytest.mark.parametrize(
    "name", ["", "a b", "10.0.0.0/8", "me@example.org", "*.*.a", "a..b", "-a", "x" * 254, "a\n"]
)
def test_names_that_are_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidError, match="Not a host name"):
        DevelopmentAuthority.load_or_create(tmp_path).issue([name])


@pytest.mark.parametrize("count", [0, MAX_NAMES + 1])
def test_the_number_of_names_is_bounded(tmp_path: Path, count: int) -> None:
    with pytest.raises(InvalidError, match="names"):
        DevelopmentAuthority.load_or_create(tmp_path).issue([f"a{number}.test" for number in range(count)])


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nnonsense\n"])
def test_a_broken_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ca.key").write_bytes(content)
    with pytest.raises(ConfigError, match=r"ca\.key does not contain a development authority"):
        DevelopmentAuthority.load_or_create(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Cannot keep a development authority"):
        DevelopmentAuthority.load_or_create(tmp_path / "file" / "below")


def _load(directory: str, start: object, told: object) -> None:
    start.wait()  # type: ignore[attr-defined]  # a multiprocessing proxy
    authority = DevelopmentAuthority.load_or_create(Path(directory))
    told.put((authority._authority.cert_pem.bytes(), authority.certificate.read_bytes()))  # type: ignore[attr-defined]  # likewise


def test_processes_that_begin_together_get_the_same_one(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, told = spawn.Barrier(4), spawn.Queue()
    racers = [spawn.Process(target=_load, args=(str(tmp_path / "new"), start, told)) for _ in range(4)]
    for racer in racers:
        racer.start()
    seen = {pem for _ in racers for pem in told.get(timeout=60)}
    for racer in racers:
        racer.join()
        racer.close()
    told.close()
    told.join_thread()
    assert len(seen) == 1
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["ca.key", "ca.pem"]


def test_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "certs", "--out", str(out), "--domain", "d.test", "edge.test"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert said == [str(out / name) for name in ("ca.pem", "wildcard.pem", "wildcard.key", "quic.pem", "quic.key")]
    assert names_of((out / "wildcard.pem").read_bytes()) == ["*.d.test", "d.test"]
    assert names_of((out / "quic.pem").read_bytes()) == ["localhost", "127.0.0.1", "::1", "edge.test"]
    for name in ("quic.pem", "wildcard.pem"):
        assert mode(out / name) == 0o644
        assert mode((out / name).with_suffix(".key")) == 0o600
    assert accepts(out / "ca.pem", out / "quic.pem", out / "quic.key", "127.0.0.1")


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "no such name"]) == 2
    assert capsys.readouterr().err == "certs: Not a host name or IP address: 'no such name'.\n"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("curl --cacert", "create_default_context", "certutil", "--domain"))
