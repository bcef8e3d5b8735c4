"""The inspector's page in a browser, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from tests.harness.inspected_tunnel import InspectedTunnel


class PageErrors(list[str]):
    """Console messages of a page and the dialogs that it opened; a test fails if any are left."""

    def take(self) -> list[str]:
        found = list(self)
        self.clear()
        return found


def open_page(page: Page, inspected: InspectedTunnel) -> Page:
    page.goto(inspected.page_url)
    expect(page.locator("#link")).to_have_text("Live")
    return page


def row(page: Page, number: int) -> Locator:
    return page.locator(f'#rows tr[data-number="{number}"]')


def cells(page: Page, number: int) -> list[str]:
    return row(page, number).locator("td").all_text_contents()
