"""A certificate manager with the listeners that validators connect to, and a CA that it asks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from edge_server.certificates.acme.certificate_manager import RenewalPolicy
from edge_server.certificates.acme.challenges import ALPN_PROTOCOL
from edge_server.certificates.acme.service import AcmeService
from edge_server.certificates.acme.settings import AcmeSettings, AcmeTimings
from edge_server.certificates.context_store import ContextStore
from edge_server.ingress.client_hello import Alert
from edge_server.ingress.tls_listener import Route, TlsListener
from edge_server.storage.steady_clock import Clock
from tests.edge_server.certificates.acme.pebble import FaultyProxy, Names, Pebble, names, pebble, running_proxy
from tests.edge_server.certificates.acme.renewal_rig import RenewalRig
from tests.harness.programs import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from edge_server.certificates.acme.certificate_manager import CertificateManager
    from edge_server.certificates.acme.scheduler import CertificateStatus
    from edge_server.ingress.client_hello import ClientHello
    from tests.harness.manual_clock import ManualClock

QUICK = AcmeTimings(
    first_retry=0.4, min_retry=0.1, max_retry=1.0, order=20.0, network=10.0, poll=0.05, renewal_info=3600.0
)
PATIENCE = 30.0
DOMAIN = "tunnel.example.com"


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@dataclass
class AcmeRig:
    """The ACME service of a test, and the parts that ask it for certificates."""

    service: AcmeService
    certificates: ContextStore
    tls_port: int
    wanted: set[str] = field(default_factory=set)

    @property
    def manager(self) -> CertificateManager:
        return self.service.manager

    def want(self, name: str) -> None:
        self.wanted.add(name)
        self.manager.request(name, "somebody", alone=False)

    async def wait_for(self, name: str, check: Callable[[CertificateStatus], bool]) -> CertificateStatus:
        """Wait until the status of a name satisfies ``check``; return the status."""
        async with asyncio.timeout(PATIENCE):
            while (status := self.manager.status(name)) is None or not check(status):  # noqa: ASYNC110 - a look
                await asyncio.sleep(0.01)
        return status

    async def wait_until_held(self, name: str) -> CertificateStatus:
        return await self.wait_for(name, lambda status: status.not_after is not None)

    def is_idle(self, name: str) -> bool:
        """Return True if nothing is due soon, because the certificate is new."""
        status = self.manager.status(name)
        return status is not None and (status.next_try or 0) > time.time() + 1000

    async def serial(self, name: str, trusted: Path) -> int:
        """Of the certificate that a visitor is met with, who trusts that CA alone."""
        context = ssl.create_default_context(cafile=str(trusted))
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.tls_port, ssl=context, server_hostname=name
        )
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        found = x509.load_der_x509_certificate(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))
        writer.close()
        return found.serial_number


def route(hello: ClientHello, _: str, rig: AcmeRig) -> Route | Alert:
    assert hello.server_name is not None
    if hello.alpn == (ALPN_PROTOCOL,):
        context = rig.service.challenges.tls.get(hello.server_name)
        return Alert.UNRECOGNIZED_NAME if context is None else Route(context, asyncio.Protocol)
    context = rig.certificates.context_for(hello.server_name, h2=False)
    return Alert.CERTIFICATE_UNOBTAINABLE if context is None else Route(context, Echo)


@contextlib.asynccontextmanager
async def running_service(
    state_dir: Path,
    acme_server: Pebble | FaultyProxy,
    *,
    tls_port: int,
    own: tuple[str, ...] = (),
    timings: AcmeTimings = QUICK,
    **more: Any,
) -> AsyncIterator[AcmeRig]:
    """``more``: of the settings."""
    root = acme_server.ca if isinstance(acme_server, Pebble) else acme_server.pebble.ca
    settings = AcmeSettings(
        **{"email": "you@example.com", "directory": acme_server.directory, "ca": root, "timings": timings, **more}
    )
    certificates, wanted = ContextStore(), set[str]()
    service = AcmeService(
        settings,
        state_dir,
        certificates,
        RenewalPolicy(own=own, is_needed=wanted.__contains__),
        clock=Clock(),
        https_port=tls_port,
    )
    rig = AcmeRig(service, certificates, tls_port, wanted)
    front = TlsListener(functools.partial(route, rig=rig))
    server = await asyncio.get_running_loop().create_server(front, "127.0.0.1", tls_port)
    try:
        await service.open()
        await service.start()
        yield rig
    finally:
        await service.close()
        server.close()
        front.abort()
        await asyncio.sleep(0)


@pytest.fixture
async def rig(tmp_path: Path, clock: ManualClock) -> RenewalRig:
    """Return a manager whose clock and orders the test controls."""
    clock.now = 1_800_000_000.0
    return RenewalRig(tmp_path, clock)


@pytest.fixture(scope="module")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    with names(tmp_path_factory.mktemp("names")) as found:
        yield found


@dataclass(frozen=True)
class AcmeCa:
    """A pebble for the tests of a module, which prove names one after the other at the same ports."""

    pebble: Pebble
    proxy: FaultyProxy
    tls_port: int
    http_port: int
    roots: Path


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory, dns: Names) -> Iterator[AcmeCa]:
    directory = tmp_path_factory.mktemp("pebble")
    ports = free_port(), free_port()
    with (
        pebble(directory, dns=dns.dns, tls_port=ports[0], http_port=ports[1]) as found,
        running_proxy(found, directory) as proxy,
    ):
        yield AcmeCa(found, proxy, *ports, found.roots(directory / "roots.pem"))


__all__ = ["DOMAIN", "QUICK", "AcmeCa", "AcmeRig", "replace", "running_service"]
