"""The HTTP call for the curves of a run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.metrics.logger import MetricsLogger
from monitoring.storage.open import open_storage
from tests.integration.http_calls import GOOD, UNKNOWN, MakeApp, problem, submitted


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def series(http: FlaskClient, job_id: str, **query: Any) -> dict[str, Any]:
    answer = http.get(f"/v1/jobs/{job_id}/series", query_string=query)
    assert answer.status_code == 200, answer.text
    return dict(json.loads(answer.data, parse_constant=pytest.fail))


def test_the_curves_of_a_run_come_as_columns(http: FlaskClient, job_id: str, run: Path) -> None:
    page = series(http, job_id, keys=["loss", "nothing"])
    steps, values = [0, 10, 20, 30, 40], [1 / 3 + step for step in range(0, 50, 10)]
    curve = {"x": steps, "min": values, "max": values, "last": values, "not_finite": []}
    empty: dict[str, list[float]] = {key: [] for key in curve}
    assert page["series"] == {"loss": curve, "nothing": empty}
    assert (page["names"], page["rows"], page["x_range"]) == ({"loss": 5}, 5, [0, 40])
    assert (page["restarted"], page["superseded"]) == (False, None)
    few = series(http, job_id, keys="loss", points=2)["series"]["loss"]
    assert few == {
        "x": [20, 40], "min": [values[0], values[3]], "max": [values[2], values[4]],
        "last": [values[2], values[4]], "not_finite": [],
    }  # fmt: skip
    part = series(http, job_id, keys="loss", **{"from": 10, "to": 30.5})
    assert part["series"]["loss"]["x"] == [10, 20, 30]
    assert part["x_range"] == [0, 40], "of the whole run"


def test_a_job_without_rows_has_no_curves(http: FlaskClient, job_id: str) -> None:
    page = series(http, job_id, keys="loss", superseded="true")
    empty: dict[str, list[float]] = {k: [] for k in ("x", "min", "max", "last", "not_finite")}
    assert page == {
        "series": {"loss": empty}, "superseded": {"loss": empty}, "names": {}, "rows": 0,
        "axes": [], "x_range": None, "cursor": "0-00000000", "restarted": False,
    }  # fmt: skip


def test_numbers_that_are_not_finite_are_the_usual_texts(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    (run / "logs/metrics.jsonl").write_text(
        lines({"step": 0, "loss": 1.0}, {"step": 1, "loss": "NaN"}, {"step": 2, "loss": "Infinity"})
        + '{"step": 3, "loss": -Infinity}\n'
    )
    each = series(http, job_id, keys="loss")["series"]["loss"]
    assert each["last"] == each["min"] == each["max"] == [1.0, "NaN", "Infinity", "-Infinity"]
    assert each["not_finite"] == [0, 1, 1, 1]
    both = series(http, job_id, keys="loss", points=2)["series"]["loss"]
    assert both == {
        "x": [1, 3], "min": [1.0, "-Infinity"], "max": [1.0, "-Infinity"],
        "last": ["NaN", "-Infinity"], "not_finite": [1, 2],
    }  # fmt: skip


def test_rows_lie_by_step_by_time_or_by_tokens(http: FlaskClient, job_id: str, run: Path) -> None:
    (run / "logs/metrics.jsonl").write_text(
        lines(*({"step": s, "timestamp": 5000.0 + 2.5 * s, "loss": 1.0} for s in (4, 6, 8)))
    )
    by_time = series(http, job_id, keys="loss", x="time", **{"from": 5})
    assert by_time["series"]["loss"]["x"] == [5.0, 10.0]
    assert by_time["x_range"] == [0.0, 10.0]
    # The built-in workload logs no tokens: its configuration says how many a step has.
    train = http.get(f"/v1/jobs/{job_id}").get_json()["spec"]["train"]
    per_step = train["batch_size"] * train["gradient_accumulation"] * train["model"]["block_size"]
    by_tokens = series(http, job_id, keys="loss", x="tokens", to=7 * per_step)
    assert by_tokens["series"]["loss"]["x"] == [5 * per_step, 7 * per_step]
    assert by_tokens["x_range"] == [5 * per_step, 9 * per_step]
    assert by_tokens["axes"] == ["step", "time", "tokens"]


def test_another_program_has_the_tokens_that_it_logs_or_none(
    http: FlaskClient, settings: Settings
) -> None:
    job_id = submitted(http, train=None, command=["true"])["id"]
    logs = Path(settings.storage_url.removeprefix("file://")) / job_id / "logs"
    logs.mkdir(parents=True)
    (logs / "metrics.jsonl").write_text(lines({"step": 1, "loss": 1.0}))
    page = series(http, job_id, keys="loss", x="tokens")
    assert (page["series"]["loss"]["x"], page["x_range"], page["axes"]) == ([], None, ["step"])
    (logs / "metrics.jsonl").write_text(lines({"step": 1, "loss": 1.0, "tokens_seen": 640}))
    page = series(http, job_id, keys="loss", x="tokens")
    assert (page["series"]["loss"]["x"], page["axes"]) == ([640.0], ["step", "tokens"])


def test_a_page_that_polls_gets_what_is_new_or_is_told_to_start_again(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    file = run / "logs/metrics.jsonl"
    rows = [{"step": s, "timestamp": 1e9 + s, "loss": s / 4} for s in range(20)]
    file.write_text(lines(*rows[:10]))
    first = series(http, job_id, keys="loss")
    nothing = series(http, job_id, keys="loss", cursor=first["cursor"])
    assert (nothing["series"]["loss"]["x"], nothing["restarted"]) == ([], False)
    assert nothing["names"] == {"loss": 10}
    file.write_text(lines(*rows))
    new = series(http, job_id, keys="loss", cursor=first["cursor"])
    assert (new["series"]["loss"]["x"], new["restarted"]) == ([*range(10, 20)], False)
    # An attempt resumes from step 12, and logs more than there was.
    again = [{"step": s, "timestamp": 2e9 + s, "loss": s / 4} for s in range(13, 30)]
    file.write_text(lines(*rows[:13], *again))
    kept = series(http, job_id, keys="loss", cursor=first["cursor"])
    assert (kept["series"]["loss"]["x"], kept["restarted"]) == ([*range(10, 30)], False)
    gone = series(http, job_id, keys="loss", cursor=new["cursor"])
    assert (gone["series"]["loss"]["x"], gone["restarted"]) == ([*range(30)], True)
    made_up = series(http, job_id, keys="loss", cursor="5-deadbeef")
    assert made_up["restarted"]


def test_what_has_not_changed_is_not_sent_again(http: FlaskClient, job_id: str, run: Path) -> None:
    path, file = f"/v1/jobs/{job_id}/series?keys=loss", run / "logs/metrics.jsonl"
    answer = http.get(path)
    headers = {"If-None-Match": answer.headers["ETag"]}
    same = http.get(path, headers=headers)
    assert (same.status_code, same.data) == (304, b"")
    with file.open("a") as opened:
        opened.write("more of a line that is")
    assert http.get(path, headers=headers).status_code == 304, "no row has come"
    with file.open("a") as opened:
        opened.write(" none\n" + lines({"step": 60, "loss": 1.0}))
    assert http.get(path, headers=headers).status_code == 200
    with_superseded = http.get(f"{path}&superseded=true").headers["ETag"]
    (run / "logs/metrics.superseded.jsonl").write_text(lines({"step": 60, "loss": 1.5}))
    assert http.get(f"{path}&superseded=true").headers["ETag"] != with_superseded


def test_rows_that_an_attempt_computed_again_are_shown_beside_the_curve(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    logger = MetricsLogger(run / "logs", 1)
    for step in range(60, 80):
        logger.log_metrics(step, {"loss": float(step)})
    logger.rewind(69)
    logger.log_metrics(70, {"loss": 0.5})
    logger.close()
    page = series(http, job_id, keys="loss", superseded="true", **{"from": 60})
    assert page["series"]["loss"]["x"] == [*range(60, 71)]
    assert page["superseded"]["loss"]["x"] == [*range(70, 80)]


def test_superseded_rows_lie_where_the_run_was_then(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    rows = [{"step": s, "timestamp": 5000.0 + s, "loss": 1.0} for s in range(10)]
    (run / "logs/metrics.jsonl").write_text(lines(*rows[:6]))
    (run / "logs/metrics.superseded.jsonl").write_text(lines(*rows[6:]))
    page = series(http, job_id, keys="loss", superseded="true", x="time")
    assert page["superseded"]["loss"]["x"] == [6.0, 7.0, 8.0, 9.0]
    page = series(http, job_id, keys="loss", superseded="true", x="time", to=7)
    assert page["superseded"]["loss"]["x"] == [6.0, 7.0]
    (run / "logs/metrics.jsonl").write_text("")
    page = series(http, job_id, keys="loss", superseded="true", x="time")
    assert page["superseded"]["loss"]["x"] == [0.0, 1.0, 2.0, 3.0]


def test_a_program_that_logs_nothing_has_the_curves_that_the_service_read(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    (run / "logs/metrics.jsonl").write_text("")
    (run / "logs/metrics.read.jsonl").write_text(lines({"step": 7, "loss": 2.0}))
    read = series(http, job_id, keys="loss")
    assert read["series"]["loss"]["x"] == [7]
    (run / "logs/metrics.jsonl").write_text(lines({"step": 1, "loss": 2.0}))
    own = series(http, job_id, keys="loss", cursor=read["cursor"])
    assert (own["series"]["loss"]["x"], own["restarted"]) == ([1], True)


def test_names_and_values_that_json_cannot_have_do_no_harm(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    (run / "logs/metrics.jsonl").write_text(
        '{"step": 1, "loss": 1.0, "\\ud800": 2.0}\n'
        '{"step": 2, "loss": ' + "[" * 5000 + "]" * 5000 + "}\n"
        '{"step": 18446744073709551615, "loss": 2.0}\n'
        f'{{"step": 3, "loss": {10**400}}}\n'
        '{"step": 9223372036854775807, "loss": 3}\n' + lines({"step": 4, "x" * 201: 2.0})
    )
    page = series(http, job_id, keys="loss")
    assert page["names"] == {"loss": 3}
    assert page["series"]["loss"]["x"] == [1, 3, 2**63 - 1]
    assert page["series"]["loss"]["last"] == [1.0, "Infinity", 3.0]
    assert len(series(http, job_id, keys="loss", x="tokens")["series"]["loss"]["x"]) == 3


@pytest.mark.parametrize(
    "query",
    ["x=epoch", "points=0", "points=5001", "cursor=1-2", "from=nan", "to=inf", "start=1",
     "superseded=perhaps", "&".join(["keys=a"] * 81), "keys=" + "a" * 201],
)  # fmt: skip
def test_wrong_parameters_are_refused_by_name(http: FlaskClient, job_id: str, query: str) -> None:
    (error,) = problem(http.get(f"/v1/jobs/{job_id}/series?{query}"), 422)["errors"]
    assert error["field"].split("[")[0] == query.partition("=")[0]


def test_who_looks_at_the_curves_of_a_running_job_follows_it(
    http: FlaskClient, store: JobStore, job_id: str
) -> None:
    problem(http.get(f"/v1/jobs/{UNKNOWN}/series"), 404)
    assert store.claim("default", "w") is not None
    series(http, job_id)
    assert store.is_followed(job_id)


def test_curves_come_from_an_object_store_and_only_new_bytes_are_fetched(
    settings: Settings, s3_url: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(settings.model_copy(update={"storage_url": s3_url}))
    http = app.test_client()
    job_id = str(http.post("/v1/jobs", json=GOOD).get_json()["id"])
    key, storage = f"{job_id}/logs/metrics.jsonl", open_storage(s3_url)
    text = lines(*({"step": s, "timestamp": 1e9 + s, "loss": s / 4} for s in range(20_000)))
    storage.append(key, 0, text.encode())
    first = series(http, job_id, keys="loss")
    assert (first["rows"], first["x_range"]) == (20_000, [0, 19_999])
    served = app.extensions["spectrain"].storage
    fetched: list[int] = []
    read = served.read

    def counted(*arguments: Any) -> bytes:
        data = bytes(read(*arguments))
        fetched.append(len(data))
        return data

    monkeypatch.setattr(served, "read", counted)
    time.sleep(1)  # the store has times of whole seconds
    storage.append(key, len(text), lines({"step": 20_000, "loss": 2.0}).encode())
    new = series(http, job_id, keys="loss", cursor=first["cursor"])
    assert (new["series"]["loss"]["x"], new["restarted"]) == ([20_000], False)
    assert sum(fetched) < 100_000
