"""The views of the operator's page in a real browser: tokens, names, visits, single tunnels, lists and rows."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

import quictunnel
from edge_server.admin import history, state_types
from edge_server.admin.models import ReadModels
from quictunnel.config.credential import decode
from tests.harness.admin_page import (
    CONTRASTS,
    HOSTILE,
    PATIENCE,
    AdminPageRig,
    cells,
    focused_element,
    tab_to,
)
from tests.harness.browser import driven
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page, Route


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with driven(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def module_page(browser: Browser, engines) -> Iterator[AdminPageRig]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "SAMPLE_INTERVAL", 1.0)  # so that the charts change within each test
        with AdminPageRig(browser) as rig:
            yield rig


@pytest.fixture
def rig(module_page: AdminPageRig) -> Iterator[AdminPageRig]:
    """The edge and the browser of this module, without visitors."""
    module_page.complaints.clear()
    yield module_page
    for page in module_page.context.pages:
        page.close()
    module_page.close_ends()
    eventually(lambda: module_page.edge.server.visitors == 0, "visitors were left")


def open_view(rig: AdminPageRig, name: str) -> Page:
    page = rig.open_page()
    page.get_by_role("navigation", name="Views").get_by_role("link", name=name).click()
    return page


def client_with(rig: AdminPageRig, token: str) -> quictunnel.Client:
    config = rig.edge.client_config
    return quictunnel.Client(config.edge, token=token, ca=config.ca)


def test_a_token_is_created_limited_and_revoked_with_the_keyboard_alone(rig: AdminPageRig):
    page = open_view(rig, "Tokens")
    tab_to(page, "Create a token")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Create a token")
    expect(dialog.get_by_label("Note")).to_be_focused()
    page.keyboard.type("Ada's shop")
    dialog.get_by_label("Names").fill("A B")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("names: 'A B' should be")
    dialog.get_by_label("Names").fill("shop,shop-*")
    dialog.get_by_label("Tunnels at once").fill("1")
    page.keyboard.press("Enter")
    secret = page.get_by_role("dialog", name="The new token")
    token = secret.locator("#secret-token").inner_text()
    assert re.fullmatch(r"qt1\.[a-z2-7]{16}\.[A-Za-z0-9_-]{43}", token)
    expect(secret).to_contain_text("shop, shop-*")
    assert decode(secret.locator("#secret-credential").inner_text()).token.reveal() == token
    secret.get_by_role("button", name="Done").click()
    expect(secret).to_be_hidden()
    assert token not in page.content(), "it is shown once"
    assert not page.locator("#secret-credential").text_content()
    row = page.locator("#tokens tbody tr", has_text="Ada's shop")
    expect(row).to_contain_text("tunnels: 1; names: shop, shop-*")
    key = token.split(".")[1]
    with client_with(rig, token) as client, quictunnel.forward(rig.origin_port, name="shop", client=client):
        tab_to(page, f"Change token {key} of Ada's shop")
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name=f"Change token {key}")
        expect(dialog.get_by_label("Names")).to_have_value("shop,shop-*")
        dialog.get_by_label("Expires").fill("30d")
        dialog.get_by_label("Note").fill("Ada")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_have_text(f"Token {key} is changed.")
        expect(row).to_have_count(0)
        (entry,) = [each for each in rig.operator.get("/tokens")["items"] if each["key"] == key]
        assert (entry["note"], entry["tunnels"], entry["names"]) == ("Ada", 1, ["shop", "shop-*"])
        assert entry["expires"] - entry["created"] == pytest.approx(30 * 86_400, abs=120)
        page.get_by_role("link", name="Overview").click()
        expect(page.locator("#tunnels tbody tr", has_text="shop").locator("td").nth(2)).to_have_text("Ada")
        page.get_by_role("link", name="Tokens").click()
        page.get_by_role("button", name=f"Revoke token {key} of Ada").click()
        page.get_by_role("button", name="Revoke the token").click()
        expect(page.locator("#tokens tbody tr", has_text=key)).to_contain_text("revoked")
        eventually(lambda: rig.operator.get("/tunnels", search="shop")["total"] == 0, "its tunnel is still there")
    assert [text for text in rig.complaints if "400" not in text] == []


def test_names_are_banned_and_released(rig: AdminPageRig):
    with quictunnel.Client.from_config(rig.edge.client_config) as client:
        with quictunnel.forward(9, name="pest", client=client):
            page = open_view(rig, "Names and bans")
            row = page.locator("#names tbody tr", has_text="pest")
            expect(row).to_contain_text("in use")
            expect(row).to_contain_text("the operator's token")
            expect(page.locator("#owners")).to_contain_text("pest")
            page.get_by_role("button", name="Ban pest").click()
            page.get_by_role("button", name="Ban it").click()
            expect(row).to_contain_text("banned")
            eventually(lambda: rig.operator.get("/tunnels", search="pest")["total"] == 0, "it is still there")
        page.get_by_role("button", name="Ban a name or an address").click()
        dialog = page.get_by_role("dialog", name="Ban a name or an address")
        dialog.get_by_label("Name, port, address or network").fill(HOSTILE)
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("is neither a name nor a port")
        dialog.get_by_label("Name, port, address or network").fill("203.0.113.9")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_have_text("203.0.113.9/32 is banned.")
        page.get_by_label("Show", exact=True).locator("visible=true").select_option("banned")
        expect(page.locator("#names-count")).to_have_text("2")
        for name in ("203.0.113.9/32", "pest"):
            page.get_by_role("button", name=f"Lift the ban of {name}").click()
            page.get_by_role("dialog").get_by_role("button", name="Lift the ban").click()
            expect(page.locator("#said")).to_have_text(f"The ban of {name} is lifted.")
        expect(page.locator("#names")).to_contain_text("No name has an owner.")
    assert [text for text in rig.complaints if "400" not in text] == []


def test_a_tunnel_and_its_visits_have_a_view(rig: AdminPageRig):
    name = rig.tunnel.host.partition(".")[0]
    rig.pair("tcp")
    rig.close_ends()
    stays, _ = rig.pair("tls")
    page = rig.open_page()
    page.locator("#tunnels").get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", name=f"Tunnel {name}")).to_be_visible()
    expect(page.get_by_role("link", name=rig.tunnel.url)).to_be_visible()
    expect(page.locator("#tunnel-visitors-count")).to_have_text("1")
    expect(page.locator("#tunnel-visits tbody tr").first).to_contain_text("127.0.0.1")
    logging.getLogger("edge_server.test").warning("%s: %s", name, HOSTILE)
    expect(page.locator("#tunnel-errors")).to_contain_text(HOSTILE)
    assert page.locator("main img, main script").count() == 0
    page.reload()
    expect(page.get_by_role("heading", name=f"Tunnel {name}")).to_be_visible()
    port = stays.sock.getsockname()[1]
    page.get_by_role("button", name=f"End visitor 127.0.0.1 port {port}").locator("visible=true").click()
    page.get_by_role("button", name="End the visitor").click()
    expect(page.locator("#tunnel-visitors-count")).to_have_text("0")
    page.get_by_role("link", name="Visits", exact=True).click()
    page.locator("#visits-search").fill(f"127.0.0.1:{port}")
    expect(page.locator("#visits")).to_contain_text("No visitor has left.")
    page.locator("#visits-search").fill(name.upper())
    expect(page.locator("#visits tbody tr").first).to_contain_text(str(port))
    page.evaluate("location.hash = '#/tunnels/nobody'")
    expect(page.locator("#tunnel-missing")).to_have_text("Nothing is known of this name.")
    assert [text for text in rig.complaints if "404" not in text] == []


def test_hostile_notes_and_names_are_text(rig: AdminPageRig):
    created = rig.operator.do("/tokens", body={"note": HOSTILE, "names": "hostile"}).json()
    key = created["entry"]["key"]
    with client_with(rig, created["token"]) as client, quictunnel.forward(9, name="hostile", client=client):
        page = rig.open_page()
        for link, table in (
            ("Overview", "tunnels"),
            ("Tokens", "tokens"),
            ("Names and bans", "names"),
            ("Names and bans", "owners"),
        ):
            page.get_by_role("link", name=link).click()
            expect(page.locator(f"#{table} tbody tr", has_text="hostile").first).to_contain_text(HOSTILE)
        page.get_by_role("link", name="Tokens").click()
        page.get_by_role("button", name=f"Revoke token {key}").click()
        expect(page.get_by_role("dialog")).to_contain_text(HOSTILE)
        page.get_by_role("button", name="Cancel").click()
        for path in (HOSTILE, "%E0%A4%A", "../../api/v1/drain"):
            page.evaluate("(path) => { location.hash = `#/tunnels/${path}`; }", path)
            page.wait_for_timeout(50)
        assert page.locator("img, main script").count() == 0
        assert "owned" not in page.title()
        logging.getLogger("edge_server.test").warning("a request of client %s was odd", key)
        page.evaluate("location.hash = '#/'")
        expect(page.locator("#attention")).to_contain_text(f"{key} ({HOSTILE[:60]})")
    rig.operator.do(f"/tokens/{key}/revoke")
    assert [text for text in rig.complaints if "404" not in text] == []


def test_lists_are_searched_sorted_and_paged_by_the_edge(rig: AdminPageRig):
    for number in range(55):
        assert rig.operator.do("/tokens", body={"note": f"Batch {number:02}"}).status_code == 200
    page = open_view(rig, "Tokens")
    page.locator("#tokens-search").fill("batch")
    expect(page.locator("#tokens-count")).to_have_text("50 of 55")
    page.get_by_role("button", name="Note", exact=True).click()
    first = page.locator("#tokens tbody tr").first
    expect(first).to_contain_text("Batch 00")
    expect(page.get_by_role("columnheader", name="Note")).to_have_attribute("aria-sort", "ascending")
    page.get_by_role("button", name=re.compile("Next page of Tokens")).click()
    expect(first).to_contain_text("Batch 50")
    expect(page.locator("#tokens-list .pager")).to_contain_text(re.compile("51.55 of 55"))
    expect(page.get_by_role("button", name=re.compile("Next page of Tokens"))).to_be_disabled()
    page.get_by_role("button", name="Note", exact=True).click()
    expect(first).to_contain_text("Batch 54")
    page.locator("#tokens-search").fill("batch 07")
    expect(page.locator("#tokens-count")).to_have_text("1")
    assert rig.complaints == []


BOXES = """() => [...document.querySelectorAll("#visitors tbody tr, #visitors-title, #tunnels tbody tr, #tiles")]
  .map((each) => each.getBoundingClientRect())
  .map(({ x, y, width, height }) => [x, y, width, height].join())"""
SHIFTS = """() => {
  window.shifts = [];
  new PerformanceObserver((list) => {
    const moved = list.getEntries().flatMap((entry) => entry.sources);
    window.shifts.push(...moved.map(({ node }) => node?.outerHTML ?? `${node?.parentElement?.outerHTML}`));
  }).observe({ type: "layout-shift" });
}"""

SEEN_SHIFTS = """async () => {
  for (let frame = 0; frame < 3; frame += 1) await new Promise(requestAnimationFrame);
  await new Promise((done) => setTimeout(done)); // entries are delivered after the frame that they are of
  return window.shifts;
}"""


def test_nothing_moves_under_the_pointer(rig: AdminPageRig):
    """Visitors come and go, and one sends a lot: rows keep their places, values change, what ended is marked."""
    ends = [rig.pair("tcp") for _ in range(4)]
    page = rig.open_page()
    page.set_viewport_size({"width": 1280, "height": 2600})  # only what is in the window counts as moved
    expect(page.locator("#visitors-count")).to_have_text("4")
    before = cells(page, "visitors")
    page.locator("#visitors tbody tr").nth(1).hover()
    page.mouse.move(*[side + 1 for side in centre(page, "#visitors tbody tr:nth-child(2)")])
    boxes = page.evaluate(BOXES)
    page.evaluate(SHIFTS)
    for end in ends[3]:
        end.sock.close()
    rig.pair("tls"), rig.pair("tls")
    with quictunnel.Client.from_config(rig.edge.client_config) as client, quictunnel.forward(9, client=client):
        logging.getLogger("edge_server.test").error("something that needs attention")
        expect(page.locator("#visitors-count")).to_have_text("5")
        expect(page.locator("#tunnels-count")).to_have_text("2")
        expect(page.locator("#attention")).to_contain_text("something that needs attention")
        visitor, _ = ends[0]
        visitor.send(bytes(100_000))
        expect(page.locator("#visitors tbody tr").nth(3)).to_contain_text("100 kB")
        expect(page.locator("#visitors tbody tr").first).to_have_class("gone")
        expect(page.locator("#hold-note")).to_be_visible()
        chart = page.locator("#charts figcaption").nth(4)
        expect(chart.locator("b").first).to_contain_text("kB/s")
        assert page.evaluate(BOXES) == boxes
        assert page.evaluate(SEEN_SHIFTS) == []
        assert [row[0] for row in cells(page, "visitors")] == [row[0] for row in before]
        page.mouse.move(5, 5)
        expect(page.locator("#visitors tbody tr")).to_have_count(5)
        expect(page.locator("#tunnels tbody tr")).to_have_count(2)
        expect(page.locator("#hold-note")).to_be_hidden()
    assert rig.complaints == []


def centre(page: Page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_focused_row_keeps_its_place(rig: AdminPageRig):
    stays, origin = rig.pair("tcp")
    page = rig.open_page()
    tab_to(page, f"End visitor 127.0.0.1 port {stays.sock.getsockname()[1]}")
    place = centre(page, "#visitors tbody tr")
    rig.pair("tcp"), rig.pair("tcp")
    expect(page.locator("#visitors-count")).to_have_text("3")
    assert centre(page, "#visitors tbody tr") == place
    assert focused_element(page).startswith("End visitor")
    page.locator("#visitors-search").focus()
    expect(page.locator("#visitors tbody tr")).to_have_count(3)
    tab_to(page, f"End visitor 127.0.0.1 port {stays.sock.getsockname()[1]}")
    for end in (stays, origin):
        end.sock.close()
    expect(page.locator("#visitors-title")).to_be_focused()
    expect(page.locator("#visitors tbody tr")).to_have_count(2)
    assert rig.complaints == []


def test_a_search_shows_its_rows_under_the_pointer(rig: AdminPageRig):
    for note in ("First", "Second"):
        rig.operator.do("/tokens", body={"note": note})
    page = open_view(rig, "Tokens")
    rows = page.locator("#tokens tbody tr")
    expect(rows.filter(has_text="First")).to_have_count(1)
    asked: list[Route] = []
    pattern = re.compile("tokens.*search=second")
    page.route(pattern, lambda route: asked.append(route))  # noqa: PLW0108 - it takes no method of a list
    with page.expect_request(pattern):
        page.locator("#tokens-search").fill("second")
    # Between the question and the answer, the pointer comes.
    x, y = centre(page, "#tokens tbody tr:first-child")
    page.mouse.move(x, y)
    page.mouse.move(x + 2, y)
    expect(page.locator("#hold-note")).to_be_visible()
    for route in asked:
        route.continue_()
    page.unroute(pattern)
    expect(rows.filter(has_text="First")).to_have_count(0)
    expect(rows).to_have_count(1)


def test_what_needs_attention_comes_first(
    rig: AdminPageRig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    own = ReadModels.certificates

    def certificates(models: ReadModels, query):
        page = own(models, query)
        now = models.now()
        failing = state_types.Certificate(
            names=[HOSTILE],
            by_acme=True,
            expires_at=None,
            next_try=now + 60,
            failures=3,
            last_error="DNS is wrong",
        )
        expiring = state_types.Certificate(names=["soon.example"], by_acme=False, expires_at=now + 86_400 * 3.5)
        return type(page)([failing, expiring, *page.items], page.total + 2, None)

    monkeypatch.setattr(ReadModels, "certificates", certificates)
    page = rig.open_page()
    heading = page.locator("#view h2").locator("visible=true").first
    expect(heading).to_contain_text("Needs attention")
    entries = page.locator("#attention li")
    expect(entries.first).to_contain_text(f"Problem There is no certificate for {HOSTILE}.")
    expect(entries.first).to_contain_text("(3 in a row): DNS is wrong")
    expect(page.locator("#attention")).to_contain_text("The certificate of soon.example expires in 3 days.")
    assert rig.complaints == []


def test_all_views_fit_screens_and_have_contrast(rig: AdminPageRig):
    rig.operator.do("/tokens", body={"note": "x" * 200, "names": ",".join(f"name-{n}" for n in range(40))})
    rig.pair("tcp")
    rig.close_ends()
    page = rig.open_page()
    name = rig.tunnel.host.partition(".")[0]
    for width, scheme in ((390, "dark"), (1280, "light")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for view in ("#/visits", "#/tokens", "#/names", f"#/tunnels/{name}"):
            page.evaluate("(view) => { location.hash = view; }", view)
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), (
                view
            )
            contrasts = page.evaluate(CONTRASTS)
            assert len(contrasts) > 10
            assert min(contrasts.values()) >= 4.5, {what: of for what, of in contrasts.items() if of < 4.5}
            unnamed = page.evaluate(UNNAMED)
            assert unnamed == [], view
            levels = (
                page.locator("h1, h2, h3")
                .locator("visible=true")
                .evaluate_all("(all) => all.map((e) => e.tagName)")
            )
            assert levels[0] == "H1"
            assert set(levels[1:]) == {"H2"}


FITS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
UNNAMED = """() => ["input", "select", "button", "a", "section"]
  .flatMap((kind) => [...document.querySelectorAll(`#view ${kind}`)])
  .filter((each) => each.checkVisibility())
  .filter((each) => !each.getAttribute("aria-label") && !each.getAttribute("aria-labelledby"))
  .filter((each) => !each.textContent.trim() && !each.labels?.length)
  .map((each) => each.outerHTML)"""


def test_the_page_stays_at_its_view(rig: AdminPageRig):
    page = open_view(rig, "Tokens")
    expect(page.get_by_role("link", name="Tokens")).to_have_attribute("aria-current", "page")
    page.reload()
    expect(page.locator("#tokens-title")).to_be_visible(timeout=PATIENCE)
    page.go_back()
    expect(page.locator("#tunnels-title")).to_be_visible()
    expect(page.locator("#tokens-title")).to_be_hidden()
