"""All state of a view is in its address: whoever opens the link sees the same."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from api.client import Client
from tests.browser.conftest import SMALL, Watched, watched

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pair(client: Client) -> list[str]:
    """The ids of two jobs that differ in their learning rate, with plots at two steps."""
    train = {**SMALL, "steps": 40, "eval_every": 20, "plot_every": 20}
    specs = [{"name": "shared", "train": {**train, "optimizer": {"lr": lr}}} for lr in (1e-3, 4e-3)]
    jobs = [client.submit(spec).id for spec in specs]
    for job_id in jobs:
        assert client.wait(job_id, timeout=120).state == "succeeded"
    return jobs


def seen(page: Page) -> str:
    """What a reader of the screen is told, without what changes by itself."""
    text = page.get_by_role("main").aria_snapshot()
    return re.sub(r"\d+ (s|min|h|d)\b( \d+ (s|min)\b)?( ago)?", "some time", text)


def assert_the_link_shows_the_same(browser: Browser, watch: Watched, *parts: str) -> None:
    page = watch.page
    page.wait_for_url(lambda url: all(part in url for part in parts))
    page.wait_for_load_state("networkidle")
    for other in watched(browser, watch.url):
        other.page.goto(page.url)
        other.page.wait_for_load_state("networkidle")
        other.page.wait_for_timeout(300)
        assert seen(other.page) == seen(page)


def test_of_the_list(browser: Browser, watch: Watched, pair: list[str]) -> None:
    page = watch.open()
    page.get_by_label("Search jobs").fill("shared")
    page.get_by_role("button", name="succeeded").click()
    page.get_by_role("button", name="Loss").click()
    page.get_by_role("button", name="Loss").click()
    page.get_by_label(f"Select {pair[1]}").check()
    expect(page.get_by_text("1 selected")).to_be_visible()
    assert_the_link_shows_the_same(
        browser, watch, "q=shared", "state=succeeded", "sort=-loss", "sel="
    )


def test_of_curves(browser: Browser, watch: Watched, pair: list[str]) -> None:
    page = watch.open(f"?view=job&id={pair[0]}")
    page.get_by_role("button", name="Tokens").click()
    page.get_by_label("log x").check()
    page.get_by_label("log y").check()
    page.get_by_label("Smooth").fill("0.5")
    page.get_by_label("clip outliers").uncheck()
    page.get_by_text("Metrics").first.click()
    page.get_by_role("checkbox", name="grad_norm").uncheck()
    page.keyboard.press("Escape")
    expect(page.get_by_role("checkbox", name="grad_norm")).to_be_hidden()
    plot = page.get_by_role("img", name=re.compile("^Curve of loss"))
    plot.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("+")
    page.wait_for_url(re.compile("from="))
    page.mouse.move(0, 0)
    plot.blur()
    parts = ("x=tokens", "logx=1", "logy=1", "smooth=0.5", "all=1", "keys=", "from=", "to=")
    # The curves are kept while another part of the job is read.
    page.get_by_role("link", name="Files", exact=True).click()
    page.get_by_role("region", name="Checkpoints").wait_for()
    page.get_by_role("link", name="Curves", exact=True).click()
    assert all(part in page.url for part in parts)
    page.reload()
    expect(page.get_by_role("img", name=re.compile("^Curve of grad_norm"))).to_have_count(0)
    assert_the_link_shows_the_same(browser, watch, *parts)


def test_of_the_other_parts_of_a_job(browser: Browser, watch: Watched, pair: list[str]) -> None:
    page = watch.open(f"?view=job&id={pair[0]}&tab=plots")
    page.get_by_label("Step").fill("0")
    page.get_by_role("img", name=re.compile("at step 20")).first.wait_for()
    assert_the_link_shows_the_same(browser, watch, "step=")
    page = watch.open(f"?view=job&id={pair[0]}&tab=log")
    page.get_by_label("Search the log").fill("loss")
    page.get_by_label("context").select_option("0")
    assert_the_link_shows_the_same(browser, watch, "lq=loss", "around=0")
    page = watch.open(f"?view=job&id={pair[0]}&tab=attempts")
    page.get_by_role("button", name="Details of attempt 1").click()
    assert_the_link_shows_the_same(browser, watch, "attempt=1")
    page = watch.open(f"?view=job&id={pair[0]}&tab=files")
    page.get_by_label("Search files").fill("metrics")
    assert_the_link_shows_the_same(browser, watch, "fq=metrics")
    page = watch.open(f"?view=job&id={pair[0]}&tab=configuration")
    page.get_by_label("Difference to").fill(pair[1])
    page.keyboard.press("Enter")
    expect(page.get_by_role("row", name="train.optimizer.lr")).to_contain_text("0.004")
    assert_the_link_shows_the_same(browser, watch, f"with={pair[1]}")


def test_of_a_comparison(browser: Browser, watch: Watched, pair: list[str], ended: str) -> None:
    page = watch.open(f"?view=compare&ids={','.join([*pair, ended])}")
    page.get_by_label("Group by").select_option("name")
    page.get_by_label("log y").check()
    page.get_by_text("First step that differs").wait_for()
    assert_the_link_shows_the_same(browser, watch, "group=name", "logy=1")
    page.get_by_label(f"Leave out {ended}").click()
    page.get_by_text("Compare 2 jobs").wait_for()
    assert ended not in page.url


def test_of_the_cluster(browser: Browser, watch: Watched, pair: list[str]) -> None:
    page = watch.open("?view=cluster")
    page.get_by_label("Kind").select_option("succeeded")
    page.get_by_label("Search events").fill("shared")
    expect(page.get_by_text(re.compile("^2 of the newest"))).to_be_visible()
    assert_the_link_shows_the_same(browser, watch, "type=succeeded", "eq=shared")


def test_a_comparison_of_too_many_says_so(watch: Watched, client: Client) -> None:
    spec = {"name": "one-of-many", "command": ["true"], "resources": {"pool": "nobody"}}
    jobs = [client.submit(spec).id for _ in range(22)]
    page = watch.open(f"?view=compare&ids={','.join(jobs)}")
    expect(page.get_by_role("heading", name="Compare 20 jobs")).to_be_visible()
    expect(page.get_by_text("the first of 22")).to_be_visible()
    page.get_by_label(f"Leave out {jobs[0]}").click()
    expect(page.get_by_text("the first of 21")).to_be_visible()
    expect(page.get_by_role("listitem").filter(has_text=jobs[20])).to_be_visible()
    for job_id in jobs:
        client.cancel(job_id)
