"""Curves of programs that log what nobody expects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from playwright.sync_api import expect

from api.client import Client
from tests.browser.conftest import Watched

pytestmark = pytest.mark.browser


def logged(client: Client, name: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """The id of a job that has logged these rows."""
    text = "".join(
        json.dumps({"step": step, "timestamp": float(step), **row}) + "\n"
        for step, row in enumerate(rows)
    )
    script = (
        'mkdir -p "$SPECTRAIN_RUN_DIR/logs"\n'
        f"cat > \"$SPECTRAIN_RUN_DIR/logs/metrics.jsonl\" <<'END'\n{text}END\n"
    )
    job = client.submit({"name": name, "run": script})
    assert client.wait(job.id, timeout=120).state == "succeeded"
    return job.id


def test_names_with_a_comma_are_chosen_and_kept_in_the_address(
    watch: Watched, client: Client
) -> None:
    rows = [{"a,b": i, "100%,": i, "a": 1, "🚀 x=1&y": i} for i in range(5)]
    job_id = logged(client, "named", rows)
    page = watch.open(f"?view=job&id={job_id}")
    page.get_by_text("Metrics").first.click()
    page.get_by_role("checkbox", name="a", exact=True).uncheck()
    page.wait_for_url(re.compile("keys="))
    page.reload()
    for name in ("a,b", "100%,", "🚀 x=1&y"):
        expect(page.get_by_role("img", name=f"Curve of {name}.")).to_be_visible()
    expect(page.locator(".chart")).to_have_count(3)


def test_of_hundreds_of_metrics_some_are_found_by_a_search(watch: Watched, client: Client) -> None:
    row = {f"layer.{n:03d}/norm": n for n in range(300)}
    job_id = logged(client, "hundreds", [row, row])
    page = watch.open(f"?view=job&id={job_id}")
    expect(page.locator(".chart")).to_have_count(6)
    page.get_by_text("Metrics").first.click()
    expect(page.get_by_text("The first 100 of 300.")).to_be_visible()
    page.get_by_label("Search metrics").fill("LAYER.299")
    page.get_by_role("checkbox", name="layer.299/norm").check()
    expect(page.get_by_role("img", name="Curve of layer.299/norm")).to_be_visible()
    page.mouse.click(700, 10)
    expect(page.get_by_label("Search metrics")).to_be_hidden()


def test_what_a_log_scale_cannot_show_is_said_once(watch: Watched, client: Client) -> None:
    job_id = logged(client, "signed", [{"reward": step - 20.0} for step in range(100)])
    page = watch.open(f"?view=job&id={job_id}&logy=1")
    expect(page.get_by_text("21 values are not positive")).to_be_visible()
    expect(page.get_by_text("outside the range shown")).to_have_count(0)


def test_a_single_point_lies_in_the_middle(watch: Watched, client: Client) -> None:
    job_id = logged(client, "single", [{"loss": 2.5}])
    page = watch.open(f"?view=job&id={job_id}")
    plot = page.locator(".plot .u-over")
    box = plot.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    point = page.locator(".u-cursor-pt").first.bounding_box()
    assert point is not None
    assert abs(point["x"] + point["width"] / 2 - box["x"] - box["width"] / 2) < 5
