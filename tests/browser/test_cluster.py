"""The cluster on the page: pools, workers with their GPUs, and what has happened."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from api.client import Client
from jobs.store.jobs import JobStore
from tests.browser.conftest import Watched

pytestmark = pytest.mark.browser


def test_the_gpus_of_a_worker_are_shown_with_what_they_do(watch: Watched, far: str) -> None:
    page = watch.open("?view=cluster")
    row = page.get_by_role("row", name=far)
    gpus = row.get_by_role("listitem")
    expect(gpus).to_have_count(2)
    expect(gpus.first).to_contain_text("H100 80GB HBM3")
    expect(gpus.first).to_contain_text("60.0 GiB of 80.0 GiB")
    expect(gpus.first).to_contain_text("64 °C, 97 %, 650 W")
    expect(gpus.first.get_by_role("img")).to_have_attribute(
        "aria-label", "60.0 GiB of 80.0 GiB of memory in use"
    )
    expect(gpus.last).to_contain_text("Xid 79")
    expect(row.get_by_text("Xid 79")).to_have_count(1)
    expect(page.get_by_text("2 GPUs with 120 GiB of 160 GiB in use")).to_be_visible()


def test_a_pool_says_who_waits_and_for_whom_a_worker_is_kept(
    watch: Watched, client: Client, store: JobStore, far: str
) -> None:
    job = client.submit({"name": "big", "command": ["true"], "resources": {"pool": "h100"}})
    store.redis.set(store.keys.reserved(far), job.id, ex=600)
    page = watch.open("?view=cluster")
    pool = page.get_by_role("region", name="Pool h100")
    expect(pool).to_contain_text(f"{far} is kept for {job.id}.")
    expect(pool.get_by_role("listitem")).to_contain_text(re.compile(f"{job.id} priority 5, waits"))
    expect(page.get_by_role("row", name=far)).to_contain_text(f"next {job.id}")
    page.get_by_role("region", name="Workers").get_by_role("link", name=job.id).click()
    expect(page.get_by_text("No worker of pool 'h100' takes jobs: unhealthy.")).to_be_visible()
    client.cancel(job.id)


def test_an_idle_pool_says_that_a_job_starts_at_once(watch: Watched) -> None:
    page = watch.open("?view=cluster")
    pool = page.get_by_role("region", name="Pool default")
    expect(pool).to_contain_text("A job submitted now starts at once.")


def test_events_are_filtered_and_the_filter_is_in_the_address(
    watch: Watched, client: Client, ended: str
) -> None:
    job = client.submit({"name": "marked", "command": ["true"]})
    client.wait(job.id, timeout=60)
    page = watch.open("?view=cluster")
    events = page.get_by_role("region", name="Events")
    expect(events.get_by_role("row").filter(has_text=job.id)).to_have_count(3)
    page.get_by_label("Search events").fill(job.id)
    page.get_by_label("Kind").select_option("succeeded")
    expect(events.get_by_role("row")).to_have_count(2)  # its head, which only readers see
    assert f"eq={job.id}" in page.url
    page.goto(page.url)
    expect(page.get_by_label("Kind")).to_have_value("succeeded")
    expect(events).to_contain_text("completed")
    page.get_by_label("Search events").fill("no such thing")
    expect(page.get_by_text("No event matches.")).to_be_visible()
