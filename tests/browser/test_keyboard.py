"""Everything on the page is reached, seen and used by the keyboard alone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from api.client import Client
from tests.browser.conftest import SMALL, Watched

pytestmark = pytest.mark.browser

# What has the focus: its name, whether that can be seen, and where it stands in the document.
FOCUSED = """() => {
  const one = document.activeElement;
  if (one === document.body) return null;
  const box = one.getBoundingClientRect(), style = getComputedStyle(one);
  const name = one.ariaLabel || one.labels?.[0]?.innerText || one.innerText || one.tagName;
  const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1;
  const shown = box.width > 0 && box.height > 0 && box.right > 0 && box.bottom > 0
    && box.left < innerWidth && box.top < innerHeight;
  const words = name.replace(/\\s+/g, ' ').trim().slice(0, 60);
  return {name: words, outlined, shown, tabindex: one.tabIndex};
}"""


def walk(page: Page, most: int = 80) -> list[str]:
    """The names of what Tab comes to, in order; each must be seen to have the focus."""
    names: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED)
        if found is None:
            break
        assert found["outlined"], f"no one sees that {found['name']!r} has the focus"
        assert found["shown"], f"{found['name']!r} has the focus and is out of sight"
        assert found["tabindex"] == 0, "the order is that of the document"
        names.append(found["name"])
    return names


def in_order(names: list[str], *wanted: str) -> bool:
    """Whether names that contain these come in this order."""
    rest = iter(names)
    return all(any(one in name for name in rest) for one in wanted)


def test_tab_goes_through_each_view_in_order_and_is_seen(watch: Watched, ended: str) -> None:
    views = {
        "?q=ended": ("Skip", "Spectrain", "Jobs", "Cluster", "Search jobs", "running", ended),
        f"?view=job&id={ended}": ("Skip", "Jobs", "Fork", "Attempt 1", "Curves", "Log",
                                  "Step", "Smooth", "Metrics", "Curve of loss"),
        f"?view=job&id={ended}&tab=log": ("Log", "Search the log", "follow", "Download", "Output"),
        f"?view=job&id={ended}&tab=files": ("Checkpoints", "Download all", "Search files"),
        "?view=cluster": ("Workers", "Drain", "Kind", "Search events", "Events"),
    }  # fmt: skip
    for query, wanted in views.items():
        page = watch.open(query)
        page.get_by_role("main").wait_for()
        page.wait_for_load_state("networkidle")
        names = walk(page)
        assert in_order(names, *wanted), "\n".join([query, *names])


def test_the_link_to_the_content_comes_first_and_leads_there(watch: Watched, ended: str) -> None:
    page = watch.open("?q=ended")
    page.get_by_role("link", name=ended).wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)["name"] == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)["name"] == "Search jobs"


def test_a_job_is_cancelled_and_a_curve_is_read_without_a_mouse(
    watch: Watched, client: Client
) -> None:
    job = client.submit({"name": "typed", "train": {**SMALL, "steps": 100_000}})
    page = watch.open("?q=typed")
    page.get_by_role("link", name=job.id).focus()
    page.keyboard.press("Enter")
    page.get_by_role("img", name=re.compile("^Curve of loss")).focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".place").first).to_contain_text("step")
    page.keyboard.press("+")
    page.wait_for_url(re.compile("from="))
    page.keyboard.press("0")
    page.wait_for_url(lambda url: "from=" not in url)
    page.get_by_role("button", name="Cancel").focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)  # it is hidden some milliseconds before
    expect(page.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Enter")
    dialog.get_by_role("button", name="Cancel the job").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".head .state.cancelled")).to_be_visible()


def test_a_poll_takes_the_focus_from_nobody(watch: Watched, client: Client) -> None:
    job = client.submit({"name": "focused", "train": {**SMALL, "steps": 100_000}})
    places = {
        "?q=focused": lambda page: page.get_by_label(f"Select {job.id}"),
        f"?view=job&id={job.id}": lambda page: page.get_by_role("button", name="Preempt"),
        f"?view=job&id={job.id}&logy=1": lambda page: page.get_by_role(
            "img", name=re.compile("^Curve of loss")
        ),
        f"?view=job&id={job.id}&tab=attempts": lambda page: page.get_by_label(
            "Details of attempt 1"
        ),
        "?view=cluster": lambda page: page.get_by_role("button", name="Drain").first,
    }
    for query, find in places.items():
        page = watch.open(query)
        find(page).focus()
        for _ in range(2):
            with page.expect_response(re.compile("/v1/(jobs|workers)")):
                pass
        page.wait_for_timeout(200)
        expect(find(page)).to_be_focused()
    client.cancel(job.id)
