"""Tests of the routing of visitors, validators among them, and of the names that get a certificate."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.auth.permissions import Identity, Permissions
from edge_server.certificates.acme.challenges import ALPN_PROTOCOL, ChallengeStore
from edge_server.certificates.authority import DevelopmentAuthority
from edge_server.certificates.context_store import ContextStore
from edge_server.ingress.client_hello import Alert, ClientHello
from edge_server.ingress.tls_listener import OVERLOADED, RedirectTarget, Route
from tests.edge_server.tunnels.bind_rig import Client, build, issue_for, made

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edge_server.wiring import EdgeServices

ANY = Identity("a", Permissions(domains=None))


class FakeAcmeService:
    """Fake ACME service that records the requested names."""

    def __init__(self) -> None:
        self.challenges = ChallengeStore()
        self.wanted: list[tuple[str, str, bool]] = []
        self.manager = SimpleNamespace(request=self.want, covers_own_names=False, is_requested=lambda _: False)

    def want(self, name: str, owner: str, *, alone: bool) -> bool:
        self.wanted.append((name, owner, alone))
        return True


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[EdgeServices]:
    services: Any = replace(build(tmp_path), acme=FakeAcmeService())  # type: ignore[arg-type]
    yield services
    for bindings in made:
        bindings.release_all(for_good=True)
    made.clear()
    services.claims.close()


@pytest.fixture
def authority(tmp_path: Path) -> DevelopmentAuthority:
    return DevelopmentAuthority.load_or_create(tmp_path / "authority")


def route(services: EdgeServices, name: str | None, *alpn: str) -> Route | Alert | object:
    return services.make_router().route(ClientHello(name, alpn, 300), "192.0.2.1")


async def test_a_domain_and_a_name_have_different_visitors(services: EdgeServices):
    Client(services, ANY).got(domain="shop.example.org", passthrough=True)
    assert isinstance(route(services, "shop.example.org"), Route)
    for other in ("shop.example.com", "shop.example.net", "a.shop.example.org", "example.org", "shop"):
        assert route(services, other) is Alert.UNRECOGNIZED_NAME
    assert route(services, None) is Alert.MISSING_EXTENSION


@pytest.mark.parametrize("domain", ["example.com", "localhost"])
async def test_a_label_alone_is_no_host_name(services: EdgeServices, domain: str):
    """Nor with the edge's domain twice, nor the domain itself."""
    services = replace(services, domain=domain, acme=None)
    services.certificates.set_issued("wildcard", *issue_for(f"*.{domain}"))
    label = Client(services, ANY).got(1).host.partition(".")[0]
    Client(services, ANY).got(2, name="secret")
    for name in (label, "secret", f"secret.{domain}.{domain}", domain, f"a.secret.{domain}"):
        assert route(services, name) is Alert.UNRECOGNIZED_NAME
        assert services.make_router().redirect_target(name, "192.0.2.1") is None
    assert isinstance(route(services, f"secret.{domain}"), Route)


async def test_a_development_edge_mints_for_names_that_are_held_alone(
    services: EdgeServices, authority: DevelopmentAuthority
):
    """And not more than it keeps: a name that was given back leaves nothing behind."""
    services = replace(services, acme=None, certificates=ContextStore(max_contexts=3))
    services.certificates.add_ca(authority, "example.com")
    minted = []
    issue = authority.issue
    authority.issue = lambda names: minted.append(tuple(names)) or issue(names)  # type: ignore[method-assign]
    for name in ("secret", "a.example.net", "example.net", "b.a.example.com"):
        assert route(services, name) is Alert.UNRECOGNIZED_NAME
    assert minted == []
    for number in range(8):
        client = Client(services, ANY)
        client.got(1, domain=f"shop{number}.example.org", h2=bool(number % 2))
        for _ in range(5):
            found = route(services, f"shop{number}.example.org")
            assert isinstance(found, Route)
            assert found.context is not None
        client.bindings.unbind(1)
        assert route(services, f"shop{number}.example.org") is Alert.UNRECOGNIZED_NAME
    assert minted == [(f"shop{number}.example.org",) for number in range(8)]
    assert len(services.certificates._contexts) <= 3
    assert services.certificates.validities() == [services.certificates.validities()[0]]  # the authority's own


@pytest.mark.parametrize(("port", "said"), [(443, ""), (8443, ":8443")])
async def test_plain_http_is_redirected_to_the_tunnel(services: EdgeServices, port: int, said: str):
    services = replace(services, https_port=port)
    client = Client(services, ANY)
    client.got(1, name="web", allow=("192.0.2.0/24",))
    client.got(2, domain="shop.example.org", passthrough=True)
    redirect_target = services.make_router().redirect_target
    assert redirect_target("web.example.com", "192.0.2.1") == RedirectTarget(
        f"https://web.example.com{said}", "a", "web"
    )
    assert redirect_target("shop.example.org", "198.51.100.1") == RedirectTarget(
        f"https://shop.example.org{said}", "a", "shop.example.org"
    )
    # As over TLS: who may not come does not learn that there is something.
    assert redirect_target("web.example.com", "198.51.100.1") is None
    assert redirect_target("other.example.com", "192.0.2.1") is None


async def test_plain_http_counts_for_the_rate_limit(services: EdgeServices):
    services.admission.rate_limiter.budget = 0
    assert services.make_router().redirect_target("web.example.com", "192.0.2.1") is OVERLOADED
    assert route(services, "web.example.com") is OVERLOADED


async def test_visitors_get_an_alert_until_there_is_a_certificate(services: EdgeServices):
    Client(services, ANY).got(domain="shop.example.org")
    assert services.acme.wanted == [("shop.example.org", "a", False)]  # type: ignore[union-attr]
    assert route(services, "shop.example.org") is Alert.CERTIFICATE_UNOBTAINABLE
    services.certificates.set_issued("shop.example.org", *issue_for("shop.example.org"))
    found = route(services, "shop.example.org")
    assert isinstance(found, Route)
    assert found.context is not None


async def test_only_what_no_certificate_covers_is_ordered(services: EdgeServices):
    services.certificates.set_issued("*.example.com", *issue_for("*.example.com"))
    client = Client(services, ANY)
    client.got(1, name="plain")
    client.got(2, domain="passing.example.org", passthrough=True)
    assert services.acme.wanted == []  # type: ignore[union-attr]
    client.got(3, name="with-h2", h2=True)
    assert services.acme.wanted == [("with-h2.example.com", "a", True)]  # type: ignore[union-attr]


async def test_validator_gets_only_its_names_challenge(services: EdgeServices):
    answers = services.acme.challenges  # type: ignore[union-attr]
    answers.add_tls_alpn("shop.example.org", "token.thumbprint")
    found = route(services, "shop.example.org", ALPN_PROTOCOL)
    assert isinstance(found, Route)
    assert found.context is answers.tls["shop.example.org"]
    assert route(services, "other.example.org", ALPN_PROTOCOL) is Alert.UNRECOGNIZED_NAME
    # RFC 8737 section 3: it offers this protocol and no other.
    assert route(services, "shop.example.org", ALPN_PROTOCOL, "http/1.1") is Alert.UNRECOGNIZED_NAME
    answers.remove("shop.example.org")
    assert route(services, "shop.example.org", ALPN_PROTOCOL) is Alert.UNRECOGNIZED_NAME


async def test_a_local_service_may_prove_its_domain_itself(services: EdgeServices):
    Client(services, ANY).got(domain="shop.example.org", passthrough=True)
    found = route(services, "shop.example.org", ALPN_PROTOCOL)
    assert isinstance(found, Route)
    assert found.context is None


async def test_with_acme_any_name_may_have_http_2(services: EdgeServices):
    client = Client(services, ANY)
    client.got(1, h2=True)
    client.got(2, domain="shop.example.org", h2=True)
