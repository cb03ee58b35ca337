"""A job as a person follows it: in the list, its curve, its interruption, its files."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from api.client import Client
from tests.browser.conftest import SMALL, Watched

pytestmark = pytest.mark.browser


def chart_text(page: Page) -> str:
    return (
        page.get_by_role("img", name=re.compile("^Curve of loss")).get_attribute("aria-label") or ""
    )


def last_step(page: Page) -> int:
    return int(re.findall(r"at step ([\d,]+)", chart_text(page))[0].replace(",", ""))


def test_a_job_is_seen_followed_and_preempted(watch: Watched, client: Client) -> None:
    page = watch.open()
    page.get_by_role("main").wait_for()
    job = client.submit({"name": "followed", "train": {**SMALL, "steps": 100_000}})
    page.get_by_role("link", name=job.id).click()
    expect(page.locator(".head .state.running")).to_be_visible()
    page.get_by_role("img", name=re.compile("^Curve of loss")).wait_for()
    first = last_step(page)
    page.wait_for_function(
        "([first]) => Number(/at step ([\\d,]+)/.exec(document.querySelector('.plot')"
        ".ariaLabel ?? document.querySelector('.plot').getAttribute('aria-label'))[1]"
        ".replace(',', '')) > first",
        arg=[first],
    )
    page.get_by_role("button", name="Preempt").click()
    expect(page.get_by_text(re.compile("attempt 1 preempted after step"))).to_be_visible()
    expect(page.get_by_text(re.compile("attempt 2 resumed at step"))).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("Attempt 1 *preempted"))).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".head .state.paused")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".head .state.running")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the job").click()
    expect(page.locator(".head .state.cancelled")).to_be_visible()
    assert client.get(job.id).state == "cancelled"


def test_two_jobs_are_compared(watch: Watched, client: Client, ended: str) -> None:
    train = {**SMALL, "steps": 120, "optimizer": {"lr": 0.004}}
    other = client.submit({"name": "faster", "train": train})
    client.wait(other.id, timeout=120)
    page = watch.open("?state=succeeded")
    for job_id in (ended, other.id):
        page.get_by_label(f"Select {job_id}").check()
    page.get_by_role("link", name="Compare", exact=True).click()
    text = re.compile("^Curve of loss.*faster.*ended")
    expect(page.get_by_role("img", name=text)).to_be_visible()
    row = page.get_by_role("row", name="train.optimizer.lr")
    expect(row).to_contain_text("0.004")
    expect(page.get_by_role("rowheader", name="train.steps")).to_have_count(0)
    expect(page.get_by_role("region", name="Results")).to_contain_text("best")
    expect(page.get_by_role("region", name="Differences to")).to_contain_text(
        re.compile(r"from \d+: .*loss")
    )


def test_groups_have_one_colour_and_their_mean_and_spread(watch: Watched, client: Client) -> None:
    jobs = []
    for lr in (0.001, 0.004):
        for seed in (1, 2):
            train = {**SMALL, "steps": 30, "seed": seed, "optimizer": {"lr": lr}}
            jobs.append(client.submit({"name": "swept", "train": train}).id)
    for job_id in jobs:
        assert client.wait(job_id, timeout=120).state == "succeeded"
    page = watch.open(f"?view=compare&ids={','.join(jobs)}")
    page.get_by_label("Group by").select_option("train.optimizer.lr")
    image = page.get_by_role("img", name=re.compile(r"^Curve of loss\. lr 0\.001 \(2\): "))
    expect(image).to_be_visible()
    results = page.get_by_role("region", name="Results")
    group = results.get_by_role("row", name="lr 0.004 (2)")
    expect(group).to_contain_text(re.compile(r"[\d.]+ ± [\d.]+"))
    colour = "one => getComputedStyle(one.querySelector('.swatch')).backgroundColor"
    second = group.evaluate(colour)
    rows = [results.get_by_role("row", name=job_id).evaluate(colour) for job_id in jobs]
    assert rows[2:] == [second, second]
    assert rows[0] == rows[1] != second
    chart = page.locator(".chart").first.locator(".value").nth(1)
    assert chart.evaluate(colour) == second, "as the curve is drawn"


def test_a_checkpoint_is_downloaded_whole(watch: Watched, client: Client, ended: str) -> None:
    page = watch.open(f"?view=job&id={ended}&tab=files")
    checkpoints = page.get_by_role("region", name="Checkpoints")
    row = checkpoints.get_by_role("row").nth(1)
    expect(row).to_contain_text("crc32:")
    with page.expect_download() as started:
        row.get_by_role("link").click()
    body = Path(started.value.path()).read_bytes()
    assert f"crc32:{zlib.crc32(body):08x}" in row.inner_text()


def test_all_files_are_downloaded_at_once(watch: Watched, ended: str) -> None:
    page = watch.open(f"?view=job&id={ended}&tab=files")
    with page.expect_download() as started:
        page.get_by_role("link", name="Download all").click()
    assert started.value.suggested_filename == f"{ended}.zip"
    with zipfile.ZipFile(started.value.path()) as archive:
        assert "logs/metrics.jsonl" in archive.namelist()


def test_nothing_that_a_job_wrote_is_taken_for_markup(watch: Watched, client: Client) -> None:
    evil = "<img src=x onerror=alert(1)>"
    rows = [json.dumps({"step": i, "timestamp": float(i), evil: i, "loss": 1.0}) for i in range(3)]
    script = (
        'mkdir -p "$SPECTRAIN_RUN_DIR/logs" "$SPECTRAIN_RUN_DIR/out"\n'
        f"printf '%s\\n' '{evil}' '\x1b[31m{evil}\x1b[0m'\n"
        + "".join(f"echo '{row}' >> \"$SPECTRAIN_RUN_DIR/logs/metrics.jsonl\"\n" for row in rows)
        + f'touch "$SPECTRAIN_RUN_DIR/out/{evil}.txt"\n'
    )
    job = client.submit({"name": "evil", "run": script, "labels": {"note": evil}})
    assert client.wait(job.id, timeout=120).state == "succeeded"
    tabs = ["", "&tab=log", "&tab=files", "&tab=configuration"]
    for query in ("?q=evil", *(f"?view=job&id={job.id}{tab}" for tab in tabs)):
        page = watch.open(query)
        page.get_by_text(evil).first.wait_for(state="attached")
        assert page.locator("img").count() == 0


def test_values_that_are_not_finite_and_outliers_are_said(watch: Watched, client: Client) -> None:
    lines = [
        json.dumps({"step": i, "timestamp": float(i), "loss": 1e6 if i == 50 else 2 - i / 100})
        for i in range(100)
    ]
    lines[20] = '{"step": 20, "timestamp": 20.0, "loss": "NaN"}'
    script = 'mkdir -p "$SPECTRAIN_RUN_DIR/logs"\n' + "".join(
        f"echo '{line}' >> \"$SPECTRAIN_RUN_DIR/logs/metrics.jsonl\"\n" for line in lines
    )
    job = client.submit({"name": "spiky", "run": script, "limits": {"stop_on_nan": False}})
    client.wait(job.id, timeout=120)
    page = watch.open(f"?view=job&id={job.id}")
    expect(page.get_by_text("NaN at step 20")).to_be_visible()
    expect(page.get_by_text("1 point lies outside the range shown")).to_be_visible()
    page.get_by_role("button", name="Show all").click()
    expect(page.get_by_text("outside the range shown")).to_have_count(0)
    page.get_by_label("log y").check()
    page.get_by_label("log x").check()
    page.get_by_role("button", name="Time").click()
    assert "logy=1" in page.url
    expect(page.get_by_text("NaN at 20 s")).to_be_visible()


def test_a_part_of_a_curve_is_zoomed_by_drag_and_kept_in_the_address(
    watch: Watched, ended: str
) -> None:
    page = watch.open(f"?view=job&id={ended}")
    box = page.locator(".plot .u-over").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile("from=.*to="))
    start = float(re.findall(r"from=([\d.]+)", page.url)[0])
    assert 20 < start < 40
    page.get_by_role("button", name="Whole range").click()
    assert "from=" not in page.url
    page.locator(".plot").first.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".place").first).to_contain_text("step")
