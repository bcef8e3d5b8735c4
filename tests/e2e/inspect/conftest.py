"""A web application, a tunnel to it with an inspector, and Chromium for the inspector's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.harness import browser
from tests.harness.inspected_tunnel import InspectedTunnel, Origin, inspect_tunnel, running_origin
from tests.harness.inspector_page import PageErrors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with running_origin() as origin:
        yield origin


@pytest.fixture
def inspected(edge, client, origin: Origin) -> Iterator[InspectedTunnel]:
    with inspect_tunnel(edge, client, origin) as inspected:
        yield inspected


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    with browser.driven(tmp_path_factory.mktemp("chromium"), "MAP rebound.example 127.0.0.1") as launched:
        yield launched


@pytest.fixture
def complaints() -> Iterator[PageErrors]:
    complaints = PageErrors()
    yield complaints
    assert complaints == []


@pytest.fixture
def page(chromium: Browser, complaints: PageErrors) -> Iterator[Page]:
    context = chromium.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(15_000)
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    yield page
    context.close()
