"""The HTTP calls on what a run leaves: events, log, metrics, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.server import listing
from jobs.model.record import Progress
from jobs.store import recent
from jobs.store.jobs import JobStore
from tests.integration.http_calls import problem


def test_events_are_read_in_pages_and_from_where_one_was(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    path = f"/v1/jobs/{job_id}/events"
    first = http.get(path, query_string={"limit": 1}).get_json()
    assert [event["type"] for event in first["events"]] == ["submitted"]
    nothing = http.get(path, query_string={"after": first["after"]}).get_json()
    assert nothing == {"events": [], "after": first["after"]}
    store.claim("default", "w1")
    more = http.get(path, query_string={"after": first["after"]}).get_json()
    assert more["events"]


def test_a_log_is_followed_by_its_bytes(http: FlaskClient, job_id: str, run: Path) -> None:
    path, log = f"/v1/jobs/{job_id}/logs", run / "logs/output.log"
    text, offset = b"", 0
    while part := http.get(path, query_string={"offset": offset, "limit": 5}):
        if not part.data:
            break
        text, offset = text + part.data, int(part.headers["Spectrain-Next-Offset"])
    assert text == log.read_bytes()
    assert part.headers["Spectrain-Job-State"] == "queued"
    with log.open("ab") as file:
        file.write(b"four\n")
    assert http.get(path, query_string={"offset": offset}).data == b"four\n"


def test_a_log_that_was_cut_goes_on_from_its_end(http: FlaskClient, job_id: str, run: Path) -> None:
    answer = http.get(f"/v1/jobs/{job_id}/logs", query_string={"offset": 10_000})
    assert answer.data == b""
    assert int(answer.headers["Spectrain-Next-Offset"]) == (run / "logs/output.log").stat().st_size


def test_a_job_without_a_run_has_an_empty_log_no_rows_and_no_files(
    http: FlaskClient, job_id: str
) -> None:
    assert http.get(f"/v1/jobs/{job_id}/logs").data == b""
    assert http.get(f"/v1/jobs/{job_id}/metrics").get_json() == {
        "rows": [], "cursor": None, "after_step": None,
    }  # fmt: skip
    assert http.get(f"/v1/jobs/{job_id}/artifacts").get_json() == {"artifacts": [], "links": []}


def test_metrics_come_with_all_digits_and_without_the_half_written_row(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    path = f"/v1/jobs/{job_id}/metrics"
    page = http.get(path).get_json()
    assert [row["loss"] for row in page["rows"]] == [1 / 3 + step for step in range(0, 50, 10)]
    assert page["after_step"] == 40
    rest = http.get(path, query_string={"after_step": 20, "limit": 1}).get_json()
    assert [row["step"] for row in rest["rows"]] == [30]


def test_a_loss_that_is_not_finite_has_one_form_in_every_answer(
    http: FlaskClient, store: JobStore, job_id: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_GOOD_SECONDS", 0.0)
    monkeypatch.setattr(recent, "_GOOD_SECONDS", 0.0)
    words = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    store.claim("default", "w1")
    for word, value in words.items():
        # As the monitoring library writes it, and as `json.dumps` does.
        (run / "logs/metrics.jsonl").write_text(
            f'{{"step": 1, "loss": "{word}"}}\n{{"step": 2, "loss": {word}, "deep": [{word}]}}\n'
        )
        store.renew(job_id, 1, Progress(loss=value, tokens_per_second=value))
        answers = {
            path: json.loads(http.get(path).data, parse_constant=pytest.fail)
            for path in ("/v1/jobs", f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/metrics")
        }
        listed, shown, page = answers.values()
        for progress in (listed["jobs"][0]["progress"], shown["progress"]):
            assert (progress["loss"], progress["tokens_per_second"]) == (word, word)
        assert [row["loss"] for row in page["rows"]] == [word, word]
        assert page["rows"][1]["deep"] == [word]
        job = store.get(job_id)
        assert job.progress is not None
        assert repr(job.progress.loss) == repr(value)


def test_rows_that_are_none_and_values_that_json_lacks_do_no_harm(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    text = 'no json\n[1]\n{"step": "x"}\n\n{"step": 1, "loss": NaN}\n{"step": 2, "loss": "NaN"}\n'
    (run / "logs/metrics.jsonl").write_text(text)
    answer = http.get(f"/v1/jobs/{job_id}/metrics")
    rows = json.loads(answer.data, parse_constant=pytest.fail)["rows"]
    assert rows == [{"step": 1, "loss": "NaN"}, {"step": 2, "loss": "NaN"}]


def test_rows_that_no_answer_could_have_as_they_are_do_no_harm(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    depths = [99, 150, 300, 900, 5000, 100_000]
    (run / "logs/metrics.jsonl").write_text(
        "".join(f'{{"step": {depth}, "deep": {"[" * depth}{"]" * depth}}}\n' for depth in depths)
        + '{"step": 1, "text": "a\\ud800b", "\\udfff": [{"\\ud83d": "\\ud83d\\ude00"}], '
        '"loss": 2.5}\n'
    )
    answer = http.get(f"/v1/jobs/{job_id}/metrics")
    assert answer.status_code == 200, answer.text
    rows = answer.get_json()["rows"]
    assert [row["step"] for row in rows] == [99, 1], "the others are nested too deeply"
    assert rows[1] == {
        "step": 1, "text": "a\N{REPLACEMENT CHARACTER}b", "loss": 2.5,
        "\N{REPLACEMENT CHARACTER}": [{"\N{REPLACEMENT CHARACTER}": "\N{GRINNING FACE}"}],
    }  # fmt: skip


def test_files_are_listed_and_fetched_whole_or_in_part(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    path = f"/v1/jobs/{job_id}/artifacts"
    files = {file["path"]: file for file in http.get(path).get_json()["artifacts"]}
    assert set(files) == {"logs/metrics.jsonl", "logs/output.log", "results.json"}
    assert files["results.json"]["size"] == 13
    whole = http.get(f"{path}/results.json")
    assert (whole.status_code, whole.data) == (200, b'{"loss": 1.0}')
    part = http.get(f"{path}/results.json", headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.data) == (206, b"loss")
    same = http.get(f"{path}/results.json", headers={"If-None-Match": whole.headers["ETag"]})
    assert same.status_code == 304
    beyond = http.get(f"{path}/results.json", headers={"Range": "bytes=99-"})
    problem(beyond, 416)
    for answer in (whole, part, same):
        answer.close()


@pytest.mark.parametrize(
    "path",
    [
        "../other",
        "%2e%2e/%2e%2e/secret",
        "logs/../../secret",
        ".fence",
        "logs",
        "none",
        "logs//output.log",
        "way-out",
        "way-up/secret",
        "a\x00b",
        "a" * 256,
    ],
)
def test_no_path_leads_out_of_a_run(http: FlaskClient, job_id: str, run: Path, path: str) -> None:
    (run.parent / "secret").write_text("secret")
    (run / ".fence").write_text("1")
    (run / "way-out").symlink_to(run.parent / "secret")
    (run / "way-up").symlink_to(run.parent)
    problem(http.get(f"/v1/jobs/{job_id}/artifacts/{path}"), 404)


def test_a_link_inside_a_run_is_followed(http: FlaskClient, job_id: str, run: Path) -> None:
    (run / "latest").symlink_to("results.json")
    with http.get(f"/v1/jobs/{job_id}/artifacts/latest") as answer:
        assert answer.data == b'{"loss": 1.0}'


@pytest.mark.parametrize("kind", ["html", "svg", "xml", "js", "pdf", "mjs", "xhtml", "unknown"])
def test_a_page_that_a_run_wrote_cannot_act_in_the_services_name(
    http: FlaskClient, job_id: str, run: Path, kind: str
) -> None:
    (run / f"page.{kind}").write_text("<script>")
    with http.get(f"/v1/jobs/{job_id}/artifacts/page.{kind}") as answer:
        assert answer.headers["Content-Security-Policy"].startswith("sandbox")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Disposition"].startswith("attachment; ")


@pytest.mark.parametrize("kind", ["png", "txt", "json"])
def test_what_a_browser_only_shows_is_shown(
    http: FlaskClient, job_id: str, run: Path, kind: str
) -> None:
    (run / f"file.{kind}").write_text("{}")
    with http.get(f"/v1/jobs/{job_id}/artifacts/file.{kind}") as answer:
        assert "attachment" not in answer.headers.get("Content-Disposition", "")


def test_who_reads_a_running_job_follows_it(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    """Its worker then sends new lines at once, also to a store in which each addition costs."""
    http.get(f"/v1/jobs/{job_id}/logs")
    assert not store.is_followed(job_id), "it does not run"
    assert store.claim("default", "w") is not None
    for path in ("logs", "metrics"):
        store.redis.delete(store.keys.followed(job_id))
        assert http.get(f"/v1/jobs/{job_id}/{path}").status_code == 200
        assert store.is_followed(job_id)
        assert 0 < store.redis.ttl(store.keys.followed(job_id)) <= 15
