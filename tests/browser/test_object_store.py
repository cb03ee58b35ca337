"""The page where runs lie in an object store, to which the service redirects."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from api.client import Client
from bench.system.service import local_service
from bench.system.store import environment, s3_store
from tests.browser.conftest import SMALL, watched

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a service whose runs are in SeaweedFS."""
    data: Path = tmp_path_factory.mktemp("stored")
    with (
        s3_store() as (_, port),
        local_service(data, workers=1, settings=environment(port)) as running,
    ):
        yield running.url


def test_curves_plots_checksums_and_downloads_come_from_a_store(
    browser: Browser, stored: str
) -> None:
    train = {**SMALL, "steps": 60, "plot_every": 50}
    with Client(stored) as client:
        job = client.submit({"name": "stored", "train": train})
        assert client.wait(job.id, timeout=180).state == "succeeded"
    for watch in watched(browser, stored):
        page = watch.open(f"?view=job&id={job.id}&tab=plots")
        image = page.get_by_role("img", name="Plot training dynamics").first
        expect(image).to_be_visible()
        assert image.evaluate("one => one.naturalWidth") > 100
        page.get_by_role("link", name="Files").click()
        row = page.get_by_role("region", name="Checkpoints").get_by_role("row").nth(1)
        expect(row).to_contain_text("crc32:")
        # The browser itself follows the redirect, and saves the file under its name.
        with page.expect_download() as started:
            row.get_by_role("link").click()
        assert started.value.suggested_filename == "checkpoint_step_59.pt"
        assert not started.value.url.startswith(stored), "it comes from the store"
        body = Path(started.value.path()).read_bytes()
        assert f"crc32:{zlib.crc32(body):08x}" in row.inner_text()
        with page.expect_download() as started:
            page.get_by_role("link", name="logs/output.log").click()
        assert started.value.suggested_filename == "output.log"
        expect(page.get_by_role("heading", name="All files")).to_be_visible()
        # A download is no request of the page.
        watch.wrong = [text for text in watch.wrong if "X-Amz-Signature" not in text]
