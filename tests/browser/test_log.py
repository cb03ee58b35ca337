"""The log on the page: as a terminal would show it, searched, and long."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from api.client import Client
from tests.browser.conftest import Watched

pytestmark = pytest.mark.browser

SCRIPT = r"""
printf '\033[31mred\033[0m and \033[1;38;5;208morange\033[0m\n'
printf '  10%%|#  \r  50%%|## \r 100%%|###\n'
printf '\033]0;a title\007\033[2Kno title\n'
seq -f 'line %g of many' 1 30000
echo 'step 42 loss 1.5 needle'
echo 'after it'
"""


@pytest.fixture(scope="module")
def printed(client: Client) -> str:
    job = client.submit({"name": "printed", "run": SCRIPT})
    assert client.wait(job.id, timeout=120).state == "succeeded"
    return job.id


def test_a_log_is_shown_as_a_terminal_shows_it(watch: Watched, printed: str) -> None:
    page = watch.open(f"?view=job&id={printed}&tab=log")
    expect(page.get_by_text("after it")).to_be_visible()
    while page.get_by_role("button", name="Read earlier lines").count():
        page.get_by_role("button", name="Read earlier lines").click()
        page.wait_for_timeout(200)
    page.get_by_label("follow").uncheck()
    page.get_by_role("log").evaluate("box => { box.scrollTop = 0; }")
    expect(page.locator(".fg-1", has_text="red")).to_be_visible()
    orange = page.locator(".bold", has_text="orange")
    colour = orange.evaluate("one => getComputedStyle(one).color")
    red, green, blue = map(float, re.findall(r" ([\d.]+)", colour)[:3])
    assert red > green > blue, "an orange that is read on white and on black"
    expect(page.get_by_text("100%|###")).to_be_visible()
    assert page.get_by_text("50%|##").count() == 0
    assert page.get_by_text("no title").first.inner_text() == "no title"


def test_thousands_of_lines_are_few_in_the_document(watch: Watched, printed: str) -> None:
    page = watch.open(f"?view=job&id={printed}&tab=log")
    expect(page.get_by_text("after it")).to_be_visible()
    assert page.locator(".line").count() < 200


def test_a_line_is_found_with_its_neighbours_and_leads_to_its_step(
    watch: Watched, printed: str
) -> None:
    page = watch.open(f"?view=job&id={printed}&tab=log")
    page.get_by_label("Search the log").fill("NEEDLE")
    expect(page.get_by_text("1 line", exact=True)).to_be_visible()
    expect(page.locator(".line")).to_have_count(5)  # the attempt's own last lines are among them
    expect(page.locator("mark")).to_have_text("needle")
    assert "lq=NEEDLE" in page.url
    page.locator(".line.hit").hover()
    page.get_by_role("link", name="Show step 42 in the curves").click()
    page.wait_for_url(re.compile("at=42"))


def test_a_search_finds_lines_that_the_page_has_not_read(watch: Watched, printed: str) -> None:
    page = watch.open(f"?view=job&id={printed}&tab=log")
    expect(page.get_by_role("button", name="Read earlier lines")).to_be_visible()
    page.get_by_label("Search the log").fill("line 17 of")
    expect(page.get_by_text("1 line", exact=True)).to_be_visible()
    expect(page.locator(".line.hit")).to_have_text("line 17 of many")
    expect(page.locator(".line")).to_have_count(5)


def test_a_log_is_downloaded(watch: Watched, printed: str) -> None:
    page = watch.open(f"?view=job&id={printed}&tab=log")
    with page.expect_download() as started:
        page.get_by_role("link", name="Download").click()
    assert started.value.suggested_filename == "output.log"


def test_the_lines_of_one_rank_are_shown_alone(watch: Watched, client: Client) -> None:
    printing = 'for n in 1 2 3; do for r in 0 1 2 3; do echo "[default$r]:step $n"; done; done'
    job = client.submit({"name": "ranks", "run": printing})
    assert client.wait(job.id, timeout=120).state == "succeeded"
    page = watch.open(f"?view=job&id={job.id}&tab=log")
    page.get_by_label("Rank").select_option("2")
    expect(page.locator(".line")).to_have_count(3)
    expect(page.locator(".line .text").first).to_have_text("[default2]:step 1")
    assert "lr=2" in page.url
    page.get_by_label("Search the log").fill("step 3")
    expect(page.locator(".line.hit")).to_have_count(1)
