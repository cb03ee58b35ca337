"""A real service and a real Chromium, each started once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from redis import Redis

from api.client import Client
from api.local.redis_server import redis_of
from bench.system.service import local_service
from jobs.model.workers import Gpu
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
# What a reader of a screen, or of the keyboard alone, cannot get around.
SERIOUS = {"serious", "critical"}
SMALL = {
    "model": {"type": "wave", "d_model": 32, "num_layers": 1, "num_heads": 2, "block_size": 32},
    "batch_size": 4,
    "log_every": 5,
}

H100 = "NVIDIA H100 80GB HBM3"
WELL = Gpu(name=H100, used_bytes=60 << 30, total_bytes=80 << 30, busy_percent=97, celsius=64,
           watts=650.4)  # fmt: skip
SICK = WELL.model_copy(update={"celsius": 91.0, "fault": "GPU 1 reported Xid 79; restart it"})


@dataclass
class Watched:
    """A page, and what must not happen on it."""

    page: Page
    url: str
    wrong: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> Page:
        self.page.goto(f"{self.url}/{query}")
        return self.page

    def axe(self) -> list[str]:
        """The serious violations of what is shown, one line each."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {one['help']}: {[node['html'][:160] for node in one['nodes'][:3]]}"
            for one in found["violations"]
            if one["impact"] in SERIOUS
        ]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the service."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="session")
def service(data: Path) -> Iterator[str]:
    """The URL of a service with Redis, the API and two workers."""
    with local_service(data, workers=2) as running:
        yield running.url


@pytest.fixture(scope="session")
def store(data: Path, service: str) -> Iterator[JobStore]:
    """The jobs of the service in its Redis."""
    redis = Redis.from_url(redis_of(data / "redis"), decode_responses=True)
    yield JobStore(redis, lease_seconds=15)
    redis.close()


@pytest.fixture(scope="session")
def client(service: str) -> Iterator[Client]:
    with Client(service) as one:
        yield one


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "these tests need Debian's chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        # As root, and in a container, its sandbox cannot start.
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def watched(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """A page; fails if it reports an error, or asks another host for anything."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    context.set_default_timeout(30_000)
    found = Watched(context.new_page(), url)
    host = urlsplit(url).netloc
    page = found.page
    page.on("pageerror", lambda error: found.wrong.append(str(error)))
    page.on(
        "console",
        lambda one: found.wrong.append(one.text) if one.type in {"error", "warning"} else None,
    )
    page.on("dialog", lambda one: found.wrong.append(one.message))
    page.on(
        "request",
        lambda one: (
            found.wrong.append(one.url)
            if urlsplit(one.url).scheme.startswith("http") and urlsplit(one.url).netloc != host
            else None
        ),
    )
    try:
        yield found
        assert not found.wrong
    finally:
        context.close()


@pytest.fixture
def watch(browser: Browser, service: str, request: pytest.FixtureRequest) -> Iterator[Watched]:
    """A page of the service; a parameter gives the options of its context."""
    yield from watched(browser, service, **getattr(request, "param", {}))


@pytest.fixture(scope="session")
def ended(client: Client) -> str:
    """The id of a job that has ended."""
    job = client.submit(
        {"name": "ended", "train": {**SMALL, "steps": 120}, "labels": {"kind": "<b>bold</b>"}}
    )
    assert client.wait(job.id, timeout=120).state == "succeeded"
    return job.id


@pytest.fixture
def far(store: JobStore) -> Iterator[str]:
    """The name of a worker with two GPUs, as the registry has it; nobody runs it."""
    name = "far-1-00000000"
    registry = WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=600)
    registry.renew(
        name, pool="h100", host="node7", gpus=[H100, H100], gpu_states=[WELL, SICK],
        unhealthy=SICK.fault,
    )  # fmt: skip
    yield name
    registry.leave(name)
