"""Measures how the dashboard scrolls its list of jobs in Chromium, a wheel's turn for each frame.

Time of the wall depends on what else the machine does; the processor time of the page's main
thread does not, and shows how much of a frame (16.7 ms at 60 Hz) the page takes for itself.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import CDPSession, Page, sync_playwright

from bench.report import Report, options
from bench.system.service import local_service, redis_server
from bench.web.api import finished
from bench.web.load import fill, percentile
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore

_FRAME_MS = 33.0
_OWN_MS = 16.0
# Scrolls to the end of the list; gives the milliseconds of each frame.
_SCROLL = """async (turn) => {
  const frames = [];
  let last = performance.now();
  for (let y = 0; y < document.documentElement.scrollHeight - innerHeight; y += turn) {
    scrollTo(0, y);
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  return frames;
}"""


def main(argv: Sequence[str]) -> int:
    """Fill a service, scroll its list and measure; return 1 if a limit is exceeded."""
    arguments = options("scroll", jobs=5000, turn=200, times=3).parse_args(argv)
    report = Report("scroll", vars(arguments))
    with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as config:
        redis = connect(Settings(redis_url=config.url))
        store = JobStore(redis, lease_seconds=15.0)
        fill(store, finished(store), arguments.jobs)
        settings = {"SPECTRAIN_REDIS_URL": config.url}
        with (
            local_service(Path(directory) / "data", workers=0, settings=settings) as service,
            sync_playwright() as playwright,
        ):
            chromium = shutil.which("chromium")
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            _read_all(page, service.url, arguments.jobs)
            _measure(report, page, arguments)
            browser.close()
        redis.close()
    return report.show(keep=arguments.keep)


def _read_all(page: Page, url: str, jobs: int) -> None:
    """Opens the list, and reads jobs until it has them all."""
    page.goto(url)
    older = page.get_by_role("button", name="older jobs")
    for read in range(2000, jobs, 2000):
        page.get_by_text(f"{read:,} jobs, more exist").wait_for(timeout=60_000)
        older.click()
    page.get_by_text("more exist").wait_for(state="detached", timeout=60_000)


def _measure(report: Report, page: Page, arguments: Any) -> None:
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    frames: list[float] = []
    own: dict[str, list[float]] = {"Task": [], "Script": [], "Layout": [], "RecalcStyle": []}
    for _ in range(arguments.times):
        before = _spent(devtools)
        found = page.evaluate(_SCROLL, arguments.turn)
        after = _spent(devtools)
        frames += found
        for name, values in own.items():
            spent = after[f"{name}Duration"] - before[f"{name}Duration"]
            values.append(1e3 * spent / len(found))
    report.add("a frame", "ms", frames)
    for name, values in own.items():
        report.add(f"{name.lower()}, processor time a frame", "ms", values)
    report.bar("ms of a frame, median", percentile(frames, 0.5), _FRAME_MS)
    report.bar("ms of a frame that the page takes, mean", max(own["Task"]), _OWN_MS)
    report.notes.append(f"{len(frames)} frames, p95 {percentile(frames, 0.95):.1f} ms")


def _spent(devtools: CDPSession) -> dict[str, float]:
    """The seconds of processor time that the main thread has spent, by kind."""
    metrics = devtools.send("Performance.getMetrics")["metrics"]
    return {metric["name"]: metric["value"] for metric in metrics}
