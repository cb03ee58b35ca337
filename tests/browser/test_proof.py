"""The badge that says whether an interrupted run is the same run."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from api.client import Client
from jobs.model.record import Verdict
from tests.browser.conftest import Watched

pytestmark = pytest.mark.browser


def test_the_last_verdict_of_a_drill_is_a_badge_in_the_list_and_on_the_page(
    watch: Watched, client: Client
) -> None:
    job = client.submit({"name": "proved", "command": ["true"]})
    client.wait(job.id, timeout=60)
    page = watch.open("?q=proved")
    row = page.get_by_role("row", name=job.id)
    expect(row).to_be_visible()
    expect(row.locator(".proof")).to_have_count(0)
    message = "Identical: the run was interrupted 3 times."
    client.record_proof(job.id, Verdict(verdict="identical", interruptions=3, message=message))
    expect(row.locator(".proof")).to_have_text("Drill: bit-equal")
    page.get_by_role("link", name=job.id).click()
    badge = page.locator(".head .proof")
    expect(badge).to_have_text("Drill: bit-equal, interrupted 3 times")
    assert message in (badge.get_attribute("title") or "")
    client.record_proof(job.id, Verdict(verdict="differs", step=1400, interruptions=1))
    expect(badge).to_have_text("Drill: differs from step 1,400, interrupted once")
    assert watch.axe() == []
