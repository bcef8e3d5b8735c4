"""Pytest fixtures: a public URL on loopback, with a trusted certificate, for a server in a test.

::

    def test_the_webhook_is_reachable(public_url):
        with my_app.serving() as port:
            assert httpx.get(public_url(port)).status_code == 200

The edge runs in the test process, one for each session (with pytest-xdist: for each worker), on free ports. No
packet leaves the machine. pytest imports this module wherever the package is installed, so the module imports only
what pytest has loaded already; the fixtures import the rest.
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
"""Hosts to reach without a proxy, in the syntax of NO_PROXY."""


@dataclass(frozen=True, slots=True)
class LocalEdge:
    """The edge of this test session."""

    config: ClientConfig
    """Configuration for ``Client.from_config(edge.config)``."""
    ca: Path
    """PEM file with only the edge's certificate authority."""
    trusted: Path
    """PEM file with that authority and all authorities trusted before."""

    @property
    def environ(self) -> dict[str, str]:
        """Environment variables with which clients find this edge."""
        return {
            "QUICTUNNEL_EDGE": self.config.edge,
            "QUICTUNNEL_TOKEN": self.config.token.reveal(),
            "QUICTUNNEL_CA": str(self.ca),
        }

    @property
    def trust(self) -> dict[str, str]:
        """Environment variables with which HTTP clients trust and reach this edge: ssl, httpx, requests, curl,
        Node.js."""
        before = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        direct = f"{before},{NOT_PROXIED}" if before else NOT_PROXIED
        files = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
        return dict.fromkeys(files, str(self.trusted)) | {"no_proxy": direct, "NO_PROXY": direct}


class OpenTunnel(Protocol):
    """Type of the fixture ``public_tunnel``."""

    def __call__(self, port: int | str, **options: Any) -> Tunnel:
        """Open a tunnel to a local port with options of ``forward()``."""


class OpenUrl(Protocol):
    """Type of the fixture ``public_url``."""

    def __call__(self, port: int | str, **options: Any) -> str:
        """Open a tunnel and return its URL."""


@pytest.fixture(scope="session")
def quictunnel_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEdge]:
    """Edge on free loopback ports, with its own certificate authority, for the whole test session.

    While it runs, ``*.localhost`` resolves to 127.0.0.1 in this process (``quictunnel.loopback`` lists the
    libraries).
    """
    from edge_server.embedded import EmbeddedEdge  # noqa: PLC0415 - only with this fixture
    from quictunnel.loopback import localhost_resolved  # noqa: PLC0415 - the same

    with EmbeddedEdge() as edge, localhost_resolved():
        config = edge.client_config
        assert config.ca is not None, "an embedded edge has its own authority"
        directory = tmp_path_factory.mktemp("quictunnel")
        ca, trusted = directory / "ca.pem", directory / "trusted.pem"
        ca.write_bytes(config.ca.read_bytes())
        trusted.write_bytes(_trusted_before() + b"\n" + ca.read_bytes())
        yield LocalEdge(config, ca, trusted)


@pytest.fixture(scope="session")
def quictunnel_ca(quictunnel_edge: LocalEdge) -> Path:
    """PEM file with the edge's certificate authority, for example for ``curl --cacert``."""
    return quictunnel_edge.ca


@pytest.fixture(scope="session")
def quictunnel_ssl_context(quictunnel_ca: Path) -> ssl.SSLContext:
    """SSL context that trusts only this edge, for ``httpx.Client(verify=...)``, ``aiohttp``, ``websockets``."""
    import ssl  # noqa: PLC0415 - pytest does not load it

    return ssl.create_default_context(cafile=quictunnel_ca)


@pytest.fixture
def quictunnel_trust(quictunnel_edge: LocalEdge, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Environment variables that make HTTP clients trust the edge until the test ends. Returns the PEM file.

    This works for urllib, httpx, requests, and child processes such as curl and Node.js. Existing sessions and SSL
    contexts (aiohttp makes one at import) do not change: give them ``quictunnel_ssl_context``.
    """
    for name, value in quictunnel_edge.trust.items():
        monkeypatch.setenv(name, value)
    return quictunnel_edge.trusted


@pytest.fixture
def quictunnel_environ(
    quictunnel_edge: LocalEdge,
    quictunnel_trust: Path,  # noqa: ARG001 - for its effect
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, str]]:
    """Environment variables with which ``quictunnel.forward()`` uses this edge until the test ends.

    For code that calls ``forward()`` itself, in this process or in a child process. Returns the variables. The
    test fails if the process already has a default client of another edge.
    """
    from quictunnel.client import Client  # noqa: PLC0415 - only with this fixture

    for name, value in quictunnel_edge.environ.items():
        monkeypatch.setenv(name, value)
    default = Client.from_env()
    if default.config.edge != quictunnel_edge.config.edge:
        pytest.fail(
            f"This process already has a default client, of the edge {default.config.edge}: close it "
            "(Client.from_env().close()) before using quictunnel_environ."
        )
    with default:
        yield quictunnel_edge.environ


@pytest.fixture
def public_tunnel(
    quictunnel_edge: LocalEdge,
    quictunnel_trust: Path,  # noqa: ARG001 - for its effect
) -> Iterator[OpenTunnel]:
    """Function ``public_tunnel(port, **options)`` that forwards a local port, or another local service, until
    the test ends.

    The arguments are those of ``quictunnel.forward()``. It returns a :class:`quictunnel.Tunnel`, the same one for
    the same port and options, and raises InvalidError for a port that has a tunnel with other options in this
    test.
    """
    from quictunnel.client import Client  # noqa: PLC0415 - only with this fixture
    from quictunnel.errors import InvalidError  # noqa: PLC0415 - the same
    from quictunnel.forwarding import forward  # noqa: PLC0415 - the same

    with ExitStack() as opened, Client.from_config(quictunnel_edge.config) as client:
        # The client closes first, so that the end of a test does not wait for keep-alive connections.

        tunnels: dict[int | str, tuple[dict[str, Any], Tunnel]] = {}

        def open_tunnel(port: int | str, **options: Any) -> Tunnel:
            if port in tunnels:
                given, tunnel = tunnels[port]
                if given != options:
                    raise InvalidError(
                        f"{port if isinstance(port, str) else f'Port {port}'} already has a tunnel with other "
                        f"options ({given}) in this test. Use the "
                        f"same options, or serve on another port."
                    )
                return tunnel
            tunnel = opened.enter_context(forward(port, client=client, **options))
            tunnels[port] = (options, tunnel)
            return tunnel

        yield open_tunnel


@pytest.fixture
def public_url(public_tunnel: OpenTunnel) -> OpenUrl:
    """Function ``public_url(port, **options)`` that forwards a local port until the test ends and returns its URL.

    The ``https://`` URL is the same for each call. Its certificate is trusted (see ``quictunnel_trust``), its name
    resolves, and no packet leaves the machine.
    """

    def open_url(port: int | str, **options: Any) -> str:
        return public_tunnel(port, **options).url

    return open_url


def _trusted_before() -> bytes:
    """Return the authorities that this process trusts, to keep them trusted with another file."""
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
