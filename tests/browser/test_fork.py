"""A job that goes on from a checkpoint of another one, made on the page."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from api.client import Client
from tests.browser.conftest import Watched

pytestmark = pytest.mark.browser


def test_a_job_is_forked_with_a_changed_key_and_each_leads_to_the_other(
    watch: Watched, client: Client, ended: str
) -> None:
    page = watch.open(f"?view=job&id={ended}")
    page.get_by_role("button", name="Fork").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("From")).to_contain_text("step 119")
    dialog.get_by_label("From").select_option("119")
    dialog.get_by_label("Name").fill("branch")
    dialog.get_by_label("Key 1", exact=True).fill("train.optimiser.lr")
    dialog.get_by_label("Value 1", exact=True).fill("0.001")
    dialog.get_by_role("button", name="Fork", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("train.optimiser")
    dialog.get_by_label("Key 1", exact=True).fill("train.steps")
    dialog.get_by_label("Value 1", exact=True).fill("140")
    dialog.get_by_role("button", name="Fork", exact=True).click()
    page.get_by_role("heading", name=re.compile("^branch-")).wait_for()
    made = re.findall(r"id=(branch-\w+)", page.url)[0]
    expect(page.locator(".facts")).to_contain_text(f"Forked from{ended} at step 119")
    job = client.wait(made, timeout=120)
    assert job.state == "succeeded", job.message
    assert job.spec.train is not None
    assert (job.spec.train.steps, job.attempts[0].first_step) == (140, 120)
    expect(page.locator(".marks")).to_contain_text("forked from the checkpoint of step 119")
    page.get_by_role("link", name=ended).click()
    page.get_by_role("heading", name=ended).wait_for()
    expect(page.locator(".facts")).to_contain_text(re.compile(f"Forks.*{made}"))
    watch.wrong = [text for text in watch.wrong if "422" not in text]
    client.delete(made)  # a search for the first job finds its forks


def test_a_dialog_is_left_without_a_fork(watch: Watched, client: Client, ended: str) -> None:
    page = watch.open(f"?view=job&id={ended}")
    page.get_by_role("button", name="Fork").click()
    page.get_by_role("dialog").get_by_role("button", name="Go back").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Fork").click()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert not [job for job in client.list(name="ended") if job.forked_from is not None]
