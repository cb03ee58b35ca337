"""Whose jobs the list shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from api.client import Client
from bench.system.service import local_service
from tests.browser.conftest import watched

pytestmark = pytest.mark.browser

ADMIN = "a-token-of-more-than-sixteen"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that several people share."""
    data: Path = tmp_path_factory.mktemp("shared")
    with local_service(data, workers=0, settings={"SPECTRAIN_API_TOKENS": ADMIN}) as running:
        yield running.url


def token_of(url: str, owner: str) -> str:
    answer = httpx.post(
        f"{url}/v1/tokens",
        json={"name": "laptop", "owner": owner, "role": "user"},
        headers={"Authorization": f"Bearer {ADMIN}"},
    )
    return str(answer.raise_for_status().json()["token"])


def test_a_person_sees_whose_a_job_is_and_her_own_alone(browser: Browser, shared: str) -> None:
    tokens = {owner: token_of(shared, owner) for owner in ("ada", "bob")}
    ids = {}
    for owner, token in tokens.items():
        with Client(shared, token) as client:
            ids[owner] = client.submit({"name": f"of-{owner}", "command": ["true"]}).id
    for watch in watched(browser, shared):
        page = watch.open()
        page.get_by_label("Token").fill(tokens["ada"])
        page.get_by_role("button", name="Sign in").click()
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(page.get_by_role("row", name=ids["bob"])).to_contain_text("bob")
        page.get_by_label("Owner").select_option(label="me (ada)")
        expect(rows).to_have_count(1)
        expect(page.get_by_role("row", name=ids["ada"])).to_be_visible()
        assert "owner=ada" in page.url, "a link shows a colleague the same"
        page.get_by_label("Owner").select_option("bob")
        page.get_by_role("link", name=ids["bob"]).click()
        expect(page.locator(".facts")).to_contain_text("Ownerbob")
        assert watch.axe() == []
        watch.wrong = [text for text in watch.wrong if "401" not in text]
