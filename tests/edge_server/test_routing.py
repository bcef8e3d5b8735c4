"""Where visitors go, validators among them, and which names get a certificate."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from edge_server.acme.answers import PROTOCOL, Answers
from edge_server.rights.identity import Identity, Rights
from edge_server.routing import Router
from edge_server.visitors.front import Route
from edge_server.visitors.sni import Alert, Hello
from tests.edge_server.test_binding import Client, build, made, made_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from edge_server.house import House

ANY = Identity("a", Rights(domains=None))


class Office:
    """One that remembers what is wanted of it."""

    def __init__(self) -> None:
        self.answers = Answers()
        self.wanted: list[tuple[str, str, bool]] = []
        self.keeper = SimpleNamespace(want=self.want, is_for_all=False, is_asked_for=lambda _: False)

    def want(self, name: str, owner: str, *, alone: bool) -> bool:
        self.wanted.append((name, owner, alone))
        return True


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house: Any = replace(build(tmp_path), acme=Office())  # type: ignore[arg-type]
    yield house
    for holdings in made:
        holdings.release_all(for_good=True)
    made.clear()
    house.claims.close()


def route(house: House, name: str | None, *alpn: str) -> Route | Alert | object:
    return Router(house).route(Hello(name, alpn, 300), "192.0.2.1")


async def test_a_domain_and_a_name_have_different_visitors(house: House):
    Client(house, ANY).got(domain="shop.example.org", passthrough=True)
    assert isinstance(route(house, "shop.example.org"), Route)
    for other in ("shop.example.com", "shop.example.net", "a.shop.example.org", "example.org", "shop"):
        assert route(house, other) is Alert.UNRECOGNIZED_NAME
    assert route(house, None) is Alert.MISSING_EXTENSION


async def test_until_there_is_a_certificate_visitors_are_told_so(house: House):
    Client(house, ANY).got(domain="shop.example.org")
    assert house.acme.wanted == [("shop.example.org", "a", False)]  # type: ignore[union-attr]
    assert route(house, "shop.example.org") is Alert.CERTIFICATE_UNOBTAINABLE
    house.certificates.hold("shop.example.org", *made_for("shop.example.org"))
    found = route(house, "shop.example.org")
    assert isinstance(found, Route)
    assert found.context is not None


async def test_only_what_no_certificate_covers_is_ordered(house: House):
    house.certificates.hold("*.example.com", *made_for("*.example.com"))
    client = Client(house, ANY)
    client.got(1, name="plain")
    client.got(2, domain="passing.example.org", passthrough=True)
    assert house.acme.wanted == []  # type: ignore[union-attr]
    client.got(3, name="with-h2", h2=True)
    assert house.acme.wanted == [("with-h2.example.com", "a", True)]  # type: ignore[union-attr]


async def test_a_validator_is_met_with_the_challenge_of_its_name_alone(house: House):
    answers = house.acme.answers  # type: ignore[union-attr]
    answers.prove_by_tls("shop.example.org", "token.thumbprint")
    found = route(house, "shop.example.org", PROTOCOL)
    assert isinstance(found, Route)
    assert found.context is answers.tls["shop.example.org"]
    assert route(house, "other.example.org", PROTOCOL) is Alert.UNRECOGNIZED_NAME
    # RFC 8737 section 3: it offers this protocol and no other.
    assert route(house, "shop.example.org", PROTOCOL, "http/1.1") is Alert.UNRECOGNIZED_NAME
    answers.forget("shop.example.org")
    assert route(house, "shop.example.org", PROTOCOL) is Alert.UNRECOGNIZED_NAME


async def test_a_local_service_may_prove_its_domain_itself(house: House):
    Client(house, ANY).got(domain="shop.example.org", passthrough=True)
    found = route(house, "shop.example.org", PROTOCOL)
    assert isinstance(found, Route)
    assert found.context is None


async def test_with_acme_any_name_may_have_http_2(house: House):
    client = Client(house, ANY)
    client.got(1, h2=True)
    client.got(2, domain="shop.example.org", h2=True)
