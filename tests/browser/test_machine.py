"""What a run uses of its machine, drawn below its curves."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from api.client import Client
from tests.browser.conftest import SMALL, Watched

pytestmark = pytest.mark.browser


def chart(page: Page, name: str) -> str:
    """What a chart says to those who do not see it."""
    found = page.get_by_role("img", name=re.compile(f"^Curve of {name}"))
    found.wait_for()
    return found.get_attribute("aria-label") or ""


def test_the_machine_is_drawn_below_the_curves_with_their_cursor_and_their_range(
    watch: Watched, client: Client
) -> None:
    job = client.submit({"name": "measured", "train": {**SMALL, "steps": 100_000}})
    page = watch.open(f"?view=job&id={job.id}")
    machine = page.get_by_role("region", name="Machine")
    machine.wait_for()
    expect(machine.locator("canvas")).to_have_count(4, timeout=60_000)
    assert re.search(r"Processors: [\d.]+ % at step \d+", chart(page, "Processors"))
    assert re.search(r"Memory: [\d.]+ [MG]iB at step \d+", chart(page, "Memory"))
    client.preempt(job.id)
    expect(page.get_by_text(re.compile("attempt 2 resumed at step"))).to_be_visible()
    assert "Memory" in chart(page, "Memory"), "the second attempt goes on with the same file"
    client.cancel(job.id)
    client.wait(job.id, timeout=60)
    page.reload()
    machine.wait_for()
    # One cursor for all: over a curve, the charts of the machine name the place too.
    over = page.locator(".charts .u-over").first
    over.scroll_into_view_if_needed()
    box = over.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    expect(machine.locator(".place").first).to_contain_text("step")
    page.get_by_role("button", name="Time").click()
    page.mouse.move(0, 0)
    chart(page, "Processors")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    expect(machine.locator(".place").first).to_contain_text(re.compile(r"\d (ms|s|min)$"))


def test_a_run_without_metrics_shows_its_machine_over_time(watch: Watched, client: Client) -> None:
    job = client.submit({"name": "silent", "run": "sleep 4"})
    assert client.wait(job.id, timeout=120).state == "succeeded"
    page = watch.open(f"?view=job&id={job.id}")
    expect(page.get_by_text("No metrics yet.")).to_be_visible()
    assert re.search(r"Memory: [\d.]+ [KM]iB at [\d.]+ s", chart(page, "Memory"))
