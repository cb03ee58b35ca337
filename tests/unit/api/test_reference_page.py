"""The reference page of the API: whole, offline and under a strict policy."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.server.app import create_app
from api.server.reference import reference_page
from jobs.settings import Settings


class Parts(HTMLParser):
    """The ids, links and outside references of a page, and what is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.links += [given["href"] or ""] if tag == "a" else []
        self.loads += [tag] if tag in {"script", "link", "img", "iframe"} or "src" in given else []
        self.loads += [name for name in given if name.startswith("on") or name == "style"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def http(tmp_path: Path) -> FlaskClient:
    settings = Settings(storage_url=tmp_path.as_uri(), api_tokens="a-token-of-the-reference")
    return create_app(settings).test_client()


def test_every_call_is_on_the_page_and_every_link_leads_somewhere(http: FlaskClient) -> None:
    answer = http.get("/v1/reference")
    assert (answer.status_code, answer.mimetype) == (200, "text/html"), "anybody may read it"
    page = Parts()
    page.feed(answer.text)
    assert page.open == []
    assert page.loads == [], "it needs something from elsewhere"
    headers = {"Authorization": "Bearer a-token-of-the-reference"}
    description = http.get("/v1/openapi.json", headers=headers).get_json()
    names = [
        call["operationId"] for path in description["paths"].values() for call in path.values()
    ]
    assert set(names) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json", "../"}


def test_its_policy_allows_its_own_style_and_nothing_else(http: FlaskClient) -> None:
    answer = http.get("/v1/reference")
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    made = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    assert f"style-src 'sha256-{made}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "prefers-color-scheme: dark" in style


def test_what_a_description_says_is_text() -> None:
    page = reference_page(
        {
            "info": {"title": "<b>", "version": "1", "description": "`a` <script>"},
            "paths": {},
            "components": {"schemas": {}},
        }
    )
    assert "<script>" not in page
    assert "<code>a</code>" in page
