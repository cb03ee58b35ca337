"""What the page asks for, and what it does when nothing answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, expect

from api.client import Client
from bench.system.service import local_service
from tests.browser.conftest import Watched, watched

pytestmark = pytest.mark.browser

HIDE = """(hidden) => {
  Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
  document.dispatchEvent(new Event('visibilitychange'));
}"""

# Scrolls, and tells how many rows were put into the list for it.
MOVED = """async ([by]) => {
  const body = document.querySelector('tbody');
  let made = 0;
  const watch = new MutationObserver((found) => {
    for (const one of found) made += one.addedNodes.length;
  });
  watch.observe(body, {childList: true});
  scrollBy(0, by);
  for (let frame = 0; frame < 5; frame += 1) await new Promise(requestAnimationFrame);
  watch.disconnect();
  return made;
}"""


def test_a_failed_poll_shows_a_line_and_keeps_the_page(watch: Watched, ended: str) -> None:
    page = watch.open("?q=ended")
    page.get_by_role("link", name=ended).wait_for()
    page.route("**/v1/**", lambda route: route.abort())
    line = page.get_by_text("The service does not answer.")
    expect(line).to_be_visible()
    expect(page.get_by_role("link", name=ended)).to_be_visible()
    page.unroute("**/v1/**")
    page.get_by_role("button", name="Try now").click()
    expect(line).to_have_count(0)
    watch.wrong = [text for text in watch.wrong if "net::ERR_FAILED" not in text]


def test_a_hidden_page_asks_for_nothing(watch: Watched, ended: str) -> None:
    page = watch.open(f"?view=job&id={ended}")
    page.get_by_role("img", name=re.compile("^Curve of loss")).wait_for()
    page.evaluate(HIDE, True)
    page.wait_for_timeout(500)
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.wait_for_timeout(4500)
    assert asked == []
    with page.expect_request(re.compile("/v1/jobs/")):
        page.evaluate(HIDE, False)


def test_a_page_on_which_nothing_changes_asks_less_often(watch: Watched, ended: str) -> None:
    page = watch.open(f"?view=job&id={ended}&tab=configuration")
    page.get_by_text("train.model.d_model").wait_for()
    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    page.wait_for_timeout(12_000)
    # Every two seconds would be six.
    assert len([url for url in asked if url.endswith(ended)]) <= 4


def test_thousands_of_jobs_are_a_list_of_few_rows(
    watch: Watched, client: Client, ended: str
) -> None:
    job = client.get(ended).model_dump(mode="json")
    jobs = [
        {**job, "id": f"many-{n:08d}", "sequence": n, "priority": n % 10, "attempt": 0}
        for n in range(5000, 0, -1)
    ]

    def answer(route: Route) -> None:
        query = dict(re.findall(r"(\w+)=(\w+)", route.request.url))
        start = int(query.get("cursor", 0))
        found: dict[str, Any] = {"jobs": jobs[start : start + 200], "cursor": None}
        if start + 200 < len(jobs):
            found["cursor"] = str(start + 200)
        route.fulfill(status=200, content_type="application/json", body=json.dumps(found))

    watch.page.route(re.compile(r"/v1/jobs\?"), answer)
    page = watch.open()
    expect(page.get_by_text("2,000 jobs, more exist")).to_be_visible()
    page.get_by_role("button", name="Read 2,000 older jobs").click()
    expect(page.get_by_text("4,000 jobs, more exist")).to_be_visible()
    page.get_by_role("button", name="Read 2,000 older jobs").click()
    expect(page.get_by_text("5,000 jobs")).to_be_visible()
    assert page.locator("tbody tr").count() < 100
    # What is in sight already is not made anew: `python -m bench scroll` measures the frames.
    page.evaluate("scrollTo(0, 3000)")
    expect(page.locator("tr[aria-rowindex='95']")).to_be_in_viewport()
    for by in (300, 600, -300):
        assert 0 < page.evaluate(MOVED, [by]) <= 24
    for place in range(0, 160_000, 20_000):
        page.evaluate(f"scrollTo(0, {place})")
        expect(page.locator("tbody tr").nth(20)).to_be_in_viewport()
    assert page.locator("tbody tr").count() < 100
    page.get_by_label("Search jobs").fill("00001234")
    expect(page.locator("tbody tr")).to_have_count(1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that asks for a token."""
    data: Path = tmp_path_factory.mktemp("guarded")
    settings = {"SPECTRAIN_API_TOKENS": "open-sesame-of-sixteen-or-more"}
    with local_service(data, workers=1, settings=settings) as running:
        yield running.url


def test_the_page_asks_for_a_token_and_forgets_it(browser: Browser, guarded: str) -> None:
    for watch in watched(browser, guarded):
        page = watch.open()
        page.get_by_label("Token").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("The service does not accept this token")).to_be_visible()
        assert watch.axe() == []
        page.get_by_label("Token").fill("open-sesame-of-sixteen-or-more")
        page.keyboard.press("Enter")
        expect(page.get_by_text("No job yet")).to_be_visible()
        page.get_by_role("link", name="Cluster").click()
        expect(page.get_by_role("region", name="Workers")).to_contain_text("idle")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        assert page.evaluate("Object.keys(sessionStorage).length") == 0
        watch.wrong = [text for text in watch.wrong if "401" not in text]


def test_files_and_pictures_need_the_token_of_the_session(browser: Browser, guarded: str) -> None:
    # A picture of one point.
    picture = (
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
        "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    script = (
        'mkdir -p "$SPECTRAIN_RUN_DIR/visualizations"; cd "$SPECTRAIN_RUN_DIR"\n'
        f"echo {picture} | base64 -d > visualizations/dot_step_1.png; echo text > note.txt"
    )
    with Client(guarded, "open-sesame-of-sixteen-or-more") as client:
        job = client.submit({"name": "drawn", "run": script})
        assert client.wait(job.id, timeout=120).state == "succeeded"
    for watch in watched(browser, guarded):
        page = watch.open(f"?view=job&id={job.id}&tab=plots")
        page.get_by_label("Token").fill("open-sesame-of-sixteen-or-more")
        page.keyboard.press("Enter")
        image = page.get_by_role("img", name="Plot dot at step 1")
        expect(image).to_be_visible()
        assert image.evaluate("one => one.naturalWidth") == 1
        page.get_by_role("link", name="Files").click()
        with page.expect_download() as started:
            page.get_by_role("link", name="note.txt").click()
        assert Path(started.value.path()).read_text() == "text\n"
        watch.wrong = [text for text in watch.wrong if "401" not in text]
