"""A file that a job wrote cannot act as the person who opens it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page

from api.client import Client
from bench.system.service import local_service

pytestmark = pytest.mark.browser

TOKEN = "a-token-of-more-than-sixteen"
# What each file would do in the name of the person: cancel a job.
ACT = """
fetch('/v1/me').then((answer) => answer.json()).then((me) => fetch('/v1/jobs/VICTIM/cancel',
  {method: 'POST', headers: {'Spectrain-CSRF-Token': me.csrf}}));
"""
LOAD_SCRIPT = """(url) => new Promise((done) => {
  const script = document.createElement('script');
  script.onload = () => done('run');
  script.onerror = () => done('refused');
  script.src = url;
  document.head.append(script);
})"""
TRANSFORM = """<x:stylesheet version='1.0' xmlns:x='http://www.w3.org/1999/XSL/Transform'>
<x:template match='/'><html><script>ACT</script></html></x:template></x:stylesheet>"""
# Types that a browser shows; nothing in them is run.
SHOWN = ("text/plain", "application/json", "image/png")
FILES = {
    "evil.html": "<!doctype html><script>ACT</script>",
    "evil.svg": "<svg xmlns='http://www.w3.org/2000/svg'><script>ACT</script></svg>",
    "evil.xml": "<html xmlns='http://www.w3.org/1999/xhtml'><script>ACT</script></html>",
    "evil.xhtml": "<html xmlns='http://www.w3.org/1999/xhtml'><script>ACT</script></html>",
    "evil.txt": "<!doctype html><script>ACT</script>",
    "evil.js": "ACT",
    "evil.mjs": "ACT",
    "evil.json": "<!doctype html><script>ACT</script>",
    "evil": "<!doctype html><script>ACT</script>",
    "evil.htm": "<!doctype html><script>ACT</script>",
    "evil.HTML": "<!doctype html><script>ACT</script>",
    "evil.shtml": "<!doctype html><script>ACT</script>",
    "evil.svgz": "<svg xmlns='http://www.w3.org/2000/svg'><script>ACT</script></svg>",
    "evil.png": "<!doctype html><script>ACT</script>",
    "evil.md": "<!doctype html><script>ACT</script>",
    "evil.webmanifest": "<!doctype html><script>ACT</script>",
    "evil.mht": "MIME-Version: 1.0\nContent-Type: text/html\n\n<script>ACT</script>",
    "evil.xsl": TRANSFORM,
    "transformed.xml": "<?xml-stylesheet type='text/xsl' href='evil.xsl'?><a/>",
    "evil.rdf": "<html xmlns='http://www.w3.org/1999/xhtml'><script>ACT</script></html>",
    # Names that would end the header, or begin another one.
    'evil".html': "<!doctype html><script>ACT</script>",
    "evil;filename=a.txt;.html": "<!doctype html><script>ACT</script>",
    "evil\r\nContent-Type: text\nX: .html": "<!doctype html><script>ACT</script>",
    "evil%0d%0aX: 1.html": "<!doctype html><script>ACT</script>",
    "übel-\u202etxt.html": "<!doctype html><script>ACT</script>",
    "evil.html.": "<!doctype html><script>ACT</script>",
    "evil\\.html": "<!doctype html><script>ACT</script>",
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service that asks for a token."""
    data: Path = tmp_path_factory.mktemp("guarded")
    with local_service(data, workers=1, settings={"SPECTRAIN_API_TOKENS": TOKEN}) as running:
        yield running.url


@pytest.fixture
def person(browser: Browser, guarded: str) -> Iterator[BrowserContext]:
    """The browser of somebody who has logged in: it holds the cookie of a session."""
    context = browser.new_context()
    answer = context.request.post(f"{guarded}/v1/session", data={"token": TOKEN})
    assert answer.ok
    assert [cookie.get("httpOnly") for cookie in context.cookies()] == [True]
    yield context
    context.close()


def open_file(page: Page, url: str) -> None:
    """Opens it as a link in a message would."""
    with contextlib.suppress(Error):  # the browser saves it instead
        page.goto(url)
    page.wait_for_timeout(200)


def test_a_file_that_a_job_wrote_does_not_act_as_the_person_who_opens_it(
    person: BrowserContext, guarded: str
) -> None:
    with Client(guarded, TOKEN) as client:
        victim = client.submit({"name": "victim", "run": "true", "resources": {"pool": "nobody"}})
        act = ACT.replace("VICTIM", victim.id)
        script = 'mkdir -p "$SPECTRAIN_RUN_DIR/out"; cd "$SPECTRAIN_RUN_DIR/out"\n' + "".join(
            f"cat > {shlex.quote(name)} <<'END'\n{text.replace('ACT', act)}\nEND\n"
            for name, text in FILES.items()
        )
        job = client.submit({"name": "evil", "run": script})
        assert client.wait(job.id, timeout=120).state == "succeeded"
        page = person.new_page()
        asked: list[str] = []
        person.on("request", lambda one: asked.append(f"{one.method} {one.url}"))
        urls = [f"{guarded}/v1/jobs/{job.id}/artifacts/out/{quote(name)}" for name in FILES]
        for url in urls:
            open_file(page, url)
            # And within a page of another site, which the person visits.
            page.goto("about:blank")
            page.set_content(
                f'<iframe src="{url}"></iframe><img src="{url}"><object data="{url}"></object>'
            )
            page.wait_for_timeout(200)
        assert all(any(url in one for one in asked) for url in urls)
        assert not [one for one in asked if "/v1/me" in one or one.startswith("POST")]
        # Nor does it as a script that somebody has brought into a page of the service.
        page.goto(f"{guarded}/")
        assert {page.evaluate(LOAD_SCRIPT, url) for url in urls} == {"refused"}
        assert client.get(victim.id).state == "queued"
        # The same words on a page of the service would have done it.
        page.evaluate(f"() => {act.strip().removesuffix(';')}")
        assert client.wait(victim.id, timeout=30).state == "cancelled"


def test_a_name_stays_a_name_in_the_headers(person: BrowserContext, guarded: str) -> None:
    with Client(guarded, TOKEN) as client:
        script = 'mkdir -p "$SPECTRAIN_RUN_DIR/out"; cd "$SPECTRAIN_RUN_DIR/out"\n' + "".join(
            f"echo text > {shlex.quote(name)}\n" for name in FILES
        )
        job = client.submit({"name": "names", "run": script})
        assert client.wait(job.id, timeout=120).state == "succeeded"
    for name in FILES:
        answer = person.request.get(f"{guarded}/v1/jobs/{job.id}/artifacts/out/{quote(name)}")
        assert "x" not in answer.headers
        assert (answer.ok, answer.text()) == (True, "text\n"), name
        given = answer.headers["content-disposition"]
        if answer.headers["content-type"].startswith(
            ("text/plain", "application/json", "image/png")
        ):
            assert given == f"inline; filename={name}"
        else:
            kind, _, spelled = given.partition("; filename*=UTF-8''")
            assert (kind, unquote(spelled)) == ("attachment", name)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
