"""Signing in on the page: a cookie that scripts cannot read, and buttons for what one may do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from api.client import Client
from bench.system.service import local_service
from tests.browser.conftest import watched

ADMIN = "open-sesame-of-sixteen-or-more"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that asks for a token, and has no worker."""
    data: Path = tmp_path_factory.mktemp("accounts")
    with local_service(data, workers=0, settings={"SPECTRAIN_API_TOKENS": ADMIN}) as running:
        yield running.url


def token_of(url: str, owner: str, role: str) -> str:
    body = {"name": "laptop", "owner": owner, "role": role}
    headers = {"Authorization": f"Bearer {ADMIN}"}
    answer = httpx.post(f"{url}/v1/tokens", json=body, headers=headers).raise_for_status()
    return str(answer.json()["token"])


def test_a_person_signs_in_changes_only_what_is_theirs_and_signs_out(
    browser: Browser, guarded: str
) -> None:
    spec = {"name": "mine", "command": ["true"]}
    token = token_of(guarded, "ada", "user")
    with Client(guarded, token) as client, Client(guarded, ADMIN) as admin:
        mine, other = client.submit(spec), admin.submit({**spec, "name": "other"})
    for watch in watched(browser, guarded):
        page = watch.open(f"?view=job&id={other.id}")
        page.get_by_label("Token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("banner")).to_contain_text("ada")
        assert page.locator("#app > *").last.get_attribute("class") == "bottom"
        expect(page.get_by_role("heading", name="other")).to_be_visible()
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
        expect(page.get_by_label("Priority")).to_have_count(0)
        assert page.evaluate("document.cookie") == ""
        assert page.evaluate("sessionStorage.length + localStorage.length") == 0
        page.goto(f"{guarded}/?view=job&id={mine.id}")  # the session outlasts the page
        page.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Cancel the job").click()
        expect(page.get_by_role("button", name="Retry")).to_be_visible()
        assert watch.axe() == []
        forged = page.evaluate(
            "id => fetch(`v1/jobs/${id}/retry`, {method: 'POST'}).then((one) => one.status)",
            mine.id,
        )
        assert forged == 403, "the cookie alone changes nothing"
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.reload()
        expect(page.get_by_label("Token")).to_be_visible()
        watch.wrong = [text for text in watch.wrong if "401" not in text and "403" not in text]
    with Client(guarded, token) as client:
        events = [(one.type, one.by) for one in client.events(mine.id)]
    assert events == [("submitted", "ada"), ("cancelled", "ada")]


def test_a_viewer_sees_all_and_has_no_button(browser: Browser, guarded: str) -> None:
    with Client(guarded, ADMIN) as admin:
        job = admin.submit({"name": "seen", "command": ["true"]})
    for watch in watched(browser, guarded):
        page = watch.open(f"?view=job&id={job.id}")
        page.get_by_label("Token").fill(token_of(guarded, "eve", "viewer"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="seen")).to_be_visible()
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
        watch.wrong = [text for text in watch.wrong if "401" not in text]
