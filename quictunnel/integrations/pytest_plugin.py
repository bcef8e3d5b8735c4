"""Fixtures for pytest: a real public URL for what a test serves, on loopback, with a certificate that is trusted.

::

    def test_the_webhook_is_reachable(public_url):
        with my_app.serving() as port:
            assert httpx.get(public_url(port)).status_code == 200

The edge runs in the test process, one for each session (with pytest-xdist: for each worker), on free ports;
nothing leaves the machine. pytest imports this module wherever the package is installed, so it imports only what
pytest has loaded already: the rest comes with the first fixture that is asked for.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from quictunnel.config.client_config import ClientConfig
    from quictunnel.tunnel import Tunnel

NOT_PROXIED = "localhost,.localhost"
"""What a proxy of the environment must not be asked for, in the words of NO_PROXY."""


@dataclass(frozen=True, slots=True)
class LocalEdge:
    """The edge of this test session."""

    config: ClientConfig
    """What a client needs: ``Client.from_config(edge.config)``."""
    ca: Path
    """PEM file with the authority of its certificates, and nothing else."""
    trusted: Path
    """PEM file with that authority and all that was trusted before."""

    @property
    def environ(self) -> dict[str, str]:
        """Variables by which clients of the session find this edge."""
        return {
            "QUICTUNNEL_EDGE": self.config.edge,
            "QUICTUNNEL_TOKEN": self.config.token.reveal(),
            "QUICTUNNEL_CA": str(self.ca),
        }

    @property
    def trust(self) -> dict[str, str]:
        """Variables by which visitors trust it and reach it: Python's ssl, httpx, requests, curl and Node.js."""
        before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        direct = f"{before},{NOT_PROXIED}" if before else NOT_PROXIED
        files = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        return dict.fromkeys(files, str(self.trusted)) | {"no_proxy": direct, "NO_PROXY": direct}


class OpenTunnel(Protocol):
    """``public_tunnel``: a port and the arguments of ``forward()``."""

    def __call__(self, port: int, **options: Any) -> Tunnel: ...


class OpenUrl(Protocol):
    """``public_url``: the same."""

    def __call__(self, port: int, **options: Any) -> str: ...


@pytest.fixture(scope="session")
def quictunnel_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEdge]:
    """An edge on free ports of loopback, with a certificate authority of its own, for the whole session.

    While it runs, ``*.localhost`` resolves to 127.0.0.1 in this process (``quictunnel.loopback`` says for whom).
    """
    from edge_server.embedded import EmbeddedEdge  # noqa: PLC0415 - only when a test asks for it
    from quictunnel.loopback import localhost_resolved  # noqa: PLC0415 - the same

    with EmbeddedEdge() as edge, localhost_resolved():
        config = edge.client_config
        assert config.ca is not None, "an embedded edge has an authority of its own"
        directory = tmp_path_factory.mktemp("quictunnel")
        ca, trusted = directory / "ca.pem", directory / "trusted.pem"
        ca.write_bytes(config.ca.read_bytes())
        trusted.write_bytes(_trusted_before() + b"\n" + ca.read_bytes())
        yield LocalEdge(config, ca, trusted)


@pytest.fixture(scope="session")
def quictunnel_ca(quictunnel_edge: LocalEdge) -> Path:
    """PEM file with the authority of the edge's certificates: ``curl --cacert``."""
    return quictunnel_edge.ca


@pytest.fixture(scope="session")
def quictunnel_ssl_context(quictunnel_ca: Path) -> ssl.SSLContext:
    """Trusts this edge and nobody else: ``httpx.Client(verify=...)``, ``aiohttp``, ``websockets``."""
    import ssl  # noqa: PLC0415 - pytest does without it

    return ssl.create_default_context(cafile=quictunnel_ca)


@pytest.fixture
def quictunnel_trust(quictunnel_edge: LocalEdge, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whoever reads its authorities from the environment trusts the edge as well until the test ends: urllib,
    httpx, requests, and child processes such as curl and Node.js. The file that they are pointed to.

    What a library made before (a session, an SSL context at import, as aiohttp) is not changed: give it
    ``quictunnel_ssl_context``.
    """
    for name, value in quictunnel_edge.trust.items():
        monkeypatch.setenv(name, value)
    return quictunnel_edge.trusted


@pytest.fixture
def quictunnel_environ(
    quictunnel_edge: LocalEdge,
    quictunnel_trust: Path,  # noqa: ARG001 - for what it does
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, str]]:
    """For code that calls ``quictunnel.forward()`` itself, here or in a child process: until the test ends it
    finds this edge. The variables that were set. Fails when the process had a default client of another edge."""
    from quictunnel.client import Client  # noqa: PLC0415 - only when a test asks for it

    for name, value in quictunnel_edge.environ.items():
        monkeypatch.setenv(name, value)
    default = Client.from_env()
    if default.config.edge != quictunnel_edge.config.edge:
        pytest.fail(
            f"This process has a default client already, of the edge {default.config.edge}: close it "
            "(Client.from_env().close()) before quictunnel_environ is used."
        )
    with default:
        yield quictunnel_edge.environ


@pytest.fixture
def public_tunnel(
    quictunnel_edge: LocalEdge,
    quictunnel_trust: Path,  # noqa: ARG001 - for what it does
) -> Iterator[OpenTunnel]:
    """``public_tunnel(port, **options)`` forwards a local port until the test ends; options are those of
    ``quictunnel.forward()``. Gives a :class:`quictunnel.Tunnel`, the same one for the same port and options.
    Raises InvalidError for a port that has a tunnel with other options in this test."""
    from quictunnel.client import Client  # noqa: PLC0415 - only when a test asks for it
    from quictunnel.errors import InvalidError  # noqa: PLC0415 - the same
    from quictunnel.forwarding import forward  # noqa: PLC0415 - the same

    with ExitStack() as opened, Client.from_config(quictunnel_edge.config) as client:
        # The client ends first: a test that is over waits for nobody's keep-alive connection.

        tunnels: dict[int, tuple[dict[str, Any], Tunnel]] = {}

        def open_tunnel(port: int, **options: Any) -> Tunnel:
            if port in tunnels:
                given, tunnel = tunnels[port]
                if given != options:
                    raise InvalidError(
                        f"Port {port} has a tunnel in this test already, with other options ({given}). Ask for it "
                        "with the same, or serve on another port."
                    )
                return tunnel
            tunnel = opened.enter_context(forward(port, client=client, **options))
            tunnels[port] = (options, tunnel)
            return tunnel

        yield open_tunnel


@pytest.fixture
def public_url(public_tunnel: OpenTunnel) -> OpenUrl:
    """``public_url(port, **options)`` forwards a local port until the test ends, and gives its ``https://`` URL,
    the same each time.

    The certificate is trusted (see ``quictunnel_trust``), the name resolves, and nothing leaves the machine.
    """

    def open_url(port: int, **options: Any) -> str:
        return public_tunnel(port, **options).url

    return open_url


def _trusted_before() -> bytes:
    """The authorities that this process trusts, so that naming another file takes nothing away."""
    import ssl  # noqa: PLC0415 - as above

    named = [os.environ.get(name) for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")]
    try:
        import certifi  # noqa: PLC0415 - optional: comes with httpx and requests
    except ImportError:
        named.append(ssl.get_default_verify_paths().cafile)
    else:
        named.append(certifi.where())
    files = [Path(name) for name in named if name]
    return next((file.read_bytes() for file in files if file.is_file()), b"")
