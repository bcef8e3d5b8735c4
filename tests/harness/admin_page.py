"""The operator's page in a browser, in front of an edge in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

from tests.harness.admin_client import AdminClient
from tests.harness.tunnel_fixture import EmbeddedTunnel

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

PATIENCE = 15_000
"""Milliseconds."""
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert>"
"""As long as what a client may call itself."""


class AdminPageRig(EmbeddedTunnel):
    """An edge with a page, a tunnel, and a browser in front of it."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        super().__init__(admin=True)
        admin = self.edge.server.admin
        assert admin is not None
        self.url, self.token = admin.url, admin.token
        self.operator = self.stack.enter_context(AdminClient(self.url, self.token))
        self.context: BrowserContext = browser.new_context(**options)
        self.stack.callback(self.context.close)
        self.complaints: list[str] = []
        """Everything in the browser's console, and exceptions that nobody caught."""

    def page(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        return page

    def open_page(self) -> Page:
        """The page, let in."""
        page = self.page()
        page.goto(f"{self.url}#token={self.token}")
        expect(page.locator("#state")).to_have_text("live", timeout=PATIENCE)
        return page


def cells(page: Page, table: str) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in page.locator(f"#{table} tbody tr").all()]


def focused_element(page: Page) -> str:
    return page.evaluate(
        "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent.trim()"
    )


def tab_to(page: Page, label: str) -> None:
    """With the keyboard, as far as it takes."""
    for _ in range(60):
        if focused_element(page) == label:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{label} is not reached")


# The contrast of each text that is seen with what is behind it (WCAG 2.2, 1.4.3).
CONTRASTS = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = parts(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((n) => n.nodeType === 3 && n.textContent.trim());
    if (!text.length || !element.checkVisibility() || element.matches(":disabled")) continue;
    const [a, b] = [luminance(parts(getComputedStyle(element).color)), luminance(behind(element))];
    found[text[0].textContent.trim()] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}"""
