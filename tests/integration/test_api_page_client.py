"""The client's methods for what a page of the service shows."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import api.client
from api.client.client import Client
from api.schemas import FeedQuery, SeriesPage
from api.schemas.accounts import NewToken
from jobs.accounts.token import Role
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.http_calls import GOOD, MakeApp


@pytest.fixture
def client(settings: Settings, make_app: MakeApp) -> Iterator[Client]:
    """A client that calls the application without a network between them."""
    with Client("http://127.0.0.1:8080") as client:
        client._http._http.close()
        client._http._http = httpx.Client(
            base_url="http://127.0.0.1:8080",
            transport=httpx.WSGITransport(app=make_app(settings).wsgi_app),
        )
        yield client


@pytest.fixture
def run(client: Client, settings: Settings) -> Path:
    job = client.submit(GOOD)
    root = Path(settings.storage_url.removeprefix("file://")) / job.id
    (root / "logs").mkdir(parents=True)
    rows = [{"step": step, "loss": step / 4} for step in range(100)]
    (root / "logs/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "logs/output.log").write_text("".join(f"[1] line {n}\n" for n in range(500)))
    return root


def test_curves_are_read_and_followed(client: Client, run: Path) -> None:
    page = client.series(run.name, ["loss"], between=(10, 20))
    assert isinstance(page, SeriesPage)
    assert page.series["loss"].x == [*range(10, 21)]
    assert page.series["loss"].last[0] == 2.5
    with (run / "logs/metrics.jsonl").open("a") as file:
        file.write('{"step": 100, "loss": "-Infinity"}\n')
    new = client.series(run.name, ["loss"], cursor=page.cursor)
    assert (new.series["loss"].x, new.series["loss"].last) == ([100], [-float("inf")])
    assert client.series(run.name, ["loss"], x="time").axes == ["step", "tokens"]
    assert client.series(run.name, superseded=True).superseded == {}


def test_events_of_all_jobs_are_followed(client: Client, run: Path) -> None:
    page = client.all_events()
    assert [(event.job, event.type) for event in page.events] == [(run.name, "submitted")]
    client.change(run.name, labels={"a": "b"})
    (event,) = client.all_events(page.after).events
    assert event.data == {"labels": {"a": "b"}}
    assert [event.type for event in client.events(run.name)] == ["submitted", "changed"]
    assert FeedQuery(after=page.after).after == page.after


def test_two_jobs_are_compared(client: Client, run: Path) -> None:
    other = client.submit(GOOD | {"priority": 9})
    assert client.diff(run.name, other.id).specification["priority"].other == 9


def test_a_log_is_read_from_its_last_lines_and_searched(
    client: Client, run: Path, store: JobStore
) -> None:
    store.claim("default", "w")
    pieces = client.logs(run.name, tail=2, follow=True, poll=0.01)
    assert next(pieces) == "[1] line 498\n[1] line 499\n"
    with (run / "logs/output.log").open("a") as file:
        file.write("[2] more\n")
    assert next(pieces) == "[2] more\n"
    assert "".join(client.logs(run.name, tail=1, attempt=1)) == "[1] line 499\n"
    found = list(client.search_log(run.name, "LINE", context=1))
    assert len(found) == 500
    assert (found[7].before, found[7].after) == (["[1] line 6"], ["[1] line 8"])
    assert list(client.search_log(run.name, "line", attempt=2)) == []


def test_a_run_is_fetched_as_an_archive(client: Client, run: Path, tmp_path: Path) -> None:
    target = client.fetch_archive(run.name, tmp_path / "run.zip", prefix="logs/m")
    assert zipfile.ZipFile(target).namelist() == ["logs/metrics.jsonl"]
    assert [path.name for path in tmp_path.glob("*.zip*")] == ["run.zip"]


def test_a_pool_and_changes_that_belong_to_no_job_are_read(client: Client, run: Path) -> None:
    assert client.pool("default").queued == 1
    made = client.accounts.create(NewToken(name="ci", owner="ada", role=Role.ADMIN))
    client._http._http.headers["Authorization"] = f"Bearer {made.token}"
    assert client.accounts.me().name == "ada"
    page = client.accounts.audit()
    assert [entry.type for entry in page.entries] == ["token_created"]


# What a browser, a probe or a scraper asks for.
OTHERS = {
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/v1/openapi.json",
    "/v1/reference",
    "/v1/session",
}


def test_the_client_has_a_method_for_each_call(settings: Settings, make_app: MakeApp) -> None:
    paths = make_app(settings).test_client().get("/v1/openapi.json").get_json()["paths"]
    source = "".join(path.read_text() for path in Path(api.client.__path__[0]).glob("*.py"))
    words = set(re.findall(r"[a-z.]+", source))
    missing = [
        path
        for path in paths.keys() - OTHERS
        if not {part for part in path.split("/") if part and "{" not in part} - {"v1"} <= words
    ]
    assert not missing
