"""Every view, wide and narrow, light and dark: accessible, no wider than the window, no errors."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from api.client import Client
from jobs.model.record import Verdict
from tests.browser.conftest import Watched

pytestmark = pytest.mark.browser

SIZES = [(1440, 900), (400, 800)]
LOOKS = [
    pytest.param(
        {"viewport": {"width": width, "height": height}, "color_scheme": scheme},
        id=f"{width}-{scheme}",
    )
    for width, height in SIZES
    for scheme in ("light", "dark")
]


@pytest.mark.parametrize("watch", LOOKS, indirect=True)
def test_every_view_is_accessible_and_fits_the_window(
    watch: Watched, client: Client, ended: str, far: str
) -> None:
    other = client.submit({"name": "other", "command": ["true"]}).id
    client.record_proof(ended, Verdict(verdict="differs", step=40, interruptions=2))
    views = {
        "": "Jobs",
        f"?sel={ended},{other}": "Jobs",
        f"?view=job&id={ended}": "Machine",
        f"?view=job&id={ended}&x=time&smooth=0.6&logy=1": "Machine",
        f"?view=job&id={ended}&tab=attempts&attempt=1": "Events",
        f"?view=job&id={ended}&tab=log": "step 0/120",
        f"?view=job&id={ended}&tab=plots": "training dynamics",
        f"?view=job&id={ended}&tab=files": "Checkpoints",
        f"?view=job&id={ended}&tab=configuration": "train.model.d_model",
        f"?view=job&id={ended}&tab=configuration&with={other}": "name",
        f"?view=compare&ids={ended},{other}": "Configuration, where it differs",
        f"?view=compare&ids={ended},{other}&group=name": "First step that differs",
        "?view=cluster": "Xid 79",
        "?view=cluster&type=succeeded&eq=nothing": "No event matches.",
    }
    for query, text in views.items():
        page = watch.open(query)
        expect(page.get_by_text(text).first).to_be_attached()
        page.wait_for_timeout(300)
        assert watch.axe() == [], query
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, query
    page = watch.open(f"?view=job&id={ended}")
    page.get_by_role("button", name="Fork").click()
    page.get_by_role("dialog").wait_for()
    assert watch.axe() == []


def test_the_switch_of_colours_outlasts_the_page(watch: Watched) -> None:
    page = watch.open()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Switch to dark colours").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.reload()
    page.get_by_role("button", name="Switch to light colours").wait_for()
    assert page.evaluate(ground) == dark


def test_a_link_shows_the_same_list(watch: Watched, client: Client, ended: str) -> None:
    client.submit({"name": "elsewhere", "command": ["true"], "resources": {"pool": "nobody"}})
    page = watch.open()
    page.locator("tbody tr").first.wait_for()
    page.get_by_label("Search jobs").fill("ended")
    page.get_by_role("button", name="succeeded").click()
    page.get_by_role("button", name="Loss").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    link = page.url
    assert all(part in link for part in ("q=ended", "state=succeeded", "sort=loss"))
    page.goto("about:blank")
    page.goto(link)
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.get_by_label("Search jobs")).to_have_value("ended")
    expect(page.get_by_role("button", name="succeeded")).to_have_attribute("aria-pressed", "true")


def test_the_list_is_used_by_the_keyboard(watch: Watched, client: Client, ended: str) -> None:
    page = watch.open()
    page.locator("tbody tr").first.wait_for()
    page.keyboard.press("/")
    expect(page.get_by_label("Search jobs")).to_be_focused()
    page.keyboard.type("ended")
    page.get_by_role("link", name=ended).focus()
    page.keyboard.press("x")
    expect(page.get_by_text("1 selected")).to_be_visible()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=ended).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")
