"""The files of the dashboard as they are served; no browser."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.server.app import create_app
from jobs.settings import Settings

STATIC = Path(__file__).parents[2] / "api" / "page" / "static"


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    storage = tmp_path_factory.mktemp("runs").as_uri()
    return create_app(
        Settings(storage_url=storage, api_tokens="secret-of-sixteen-or-more")
    ).test_client()


def test_the_page_needs_no_token_and_the_calls_do(http: FlaskClient) -> None:
    assert http.get("/").status_code == 200
    assert http.get("/v1/jobs").status_code == 401
    assert http.get("/nothing").status_code == 401
    assert http.post("/").status_code == 401


def test_no_answer_allows_inline_code_or_another_host(http: FlaskClient) -> None:
    page = http.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert not re.search(r"<script>|<style|\sstyle=|\son\w+=|https?://", page.text)


def test_every_file_of_the_page_is_served_for_good_under_the_name_of_its_content(
    http: FlaskClient,
) -> None:
    links = re.findall(r'(?:href|src)="(page/[^"]+)"', http.get("/").text)
    assert len(links) > 20
    for link in links:
        answer = http.get(f"/{link}")
        assert answer.status_code == 200, link
        assert answer.headers["Cache-Control"] == "max-age=31536000, immutable"
        again = http.get(f"/{link}", headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
        assert not again.data
    assert http.get("/page/0123456789abcdef/js/app.js").status_code == 401


def test_the_page_itself_is_asked_for_again_each_time(http: FlaskClient) -> None:
    page = http.get("/")
    assert page.headers["Cache-Control"] == "no-cache"
    assert http.get("/", headers={"If-None-Match": page.headers["ETag"]}).status_code == 304


def test_files_travel_compressed_where_the_browser_takes_that(http: FlaskClient) -> None:
    plain = http.get("/")
    packed = http.get("/", headers={"Accept-Encoding": "gzip, br"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert packed.headers["ETag"] != plain.headers["ETag"]
    assert len(http.head("/").data) == 0


def test_every_module_says_what_it_is_and_stays_short() -> None:
    for file in STATIC.glob("js/**/*.js"):
        lines = file.read_text().splitlines()
        assert lines[0].startswith("// "), file
        assert len(lines) < 300, file
        assert "innerHTML" not in file.read_text(), file
