"""The commands that look at jobs: logs, metrics, plot, events, diff, ls, cancel, open."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from werkzeug.serving import make_server

from api.cli.main import cli
from api.client.client import Client
from jobs.model.record import Attempt, Job, Progress
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.http_calls import MakeApp

Run = Callable[..., Result]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Those of a service that evicts a job however short it has run."""
    return settings.model_copy(update={"eviction_min_seconds": 0.0})


@pytest.fixture
def run(api_url: str) -> Run:
    """Runs a command, which has to succeed unless another `code` is given."""

    def run(*words: str, code: int = 0, **options: Any) -> Result:
        done = CliRunner().invoke(cli, ["--url", api_url, *words], **options)
        assert done.exit_code == code, done.output + done.stderr
        return done

    return run


def submit(store: JobStore, **spec: Any) -> Job:
    return store.submit(JobSpec.model_validate({"name": "a", "command": ["true"], **spec}))


def fail(store: JobStore, attempts: int = 1, **spec: Any) -> Job:
    """A job whose first attempts have failed and whose next one runs, on a worker of its own."""
    pool = {"pool": spec.get("name", "default")}
    worker = f"w-{pool['pool']}"
    retry = {"backoff_seconds": 0, "max_failures": 9}
    job = submit(store, retry=retry, resources=pool, **spec)
    for number in range(1, attempts + 1):
        assert store.claim(pool["pool"], worker) is not None
        ended = Attempt(
            number=number, worker=worker, started_at=1.0, ended_at=2.0, reason=Reason.ERROR,
            first_step=10 * number, last_step=10 * number,
        )  # fmt: skip
        store.finish(job.id, ended)
    claimed = store.claim(pool["pool"], worker)
    assert claimed is not None
    return claimed


def write(settings: Settings, job: Job, name: str, text: str) -> None:
    path = Path(settings.storage_url.removeprefix("file://"), job.id, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


LOG = """[1] start
[1] [rank0]: step 1
[1] [rank1]: step 1
[1] Error: first
[2] start
[2] [default0]:step 2
[2] [default10]:step 2
[2] [rank1]: step 2
[2] end
"""


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--tail", "2"], [7, 8]),
        (["--attempt", "1"], [0, 1, 2, 3]),
        (["--attempt", "2", "--tail", "1"], [8]),
        (["--failed"], [0, 1, 2, 3]),
        (["--rank", "0"], [1, 5]),
        (["--rank", "1"], [2, 7]),
        (["--rank", "1", "--tail", "1"], [7]),
        (["--rank", "1", "--attempt", "1"], [2]),
        (["--search", "STEP 1"], [1, 2]),
        (["--search", "step", "--tail", "2"], [6, 7]),
        (["--search", "step", "--rank", "0"], [1, 5]),
        (["--since", "1h"], [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (["--since", "30m"], [4, 5, 6, 7, 8]),
        (["--since", "30m", "--search", "step", "--rank", "1"], [7]),
        (["--since", "30m", "--tail", "1"], [8]),
        (["--since", "1m"], [8]),
        (["--since", "5"], []),
        (["--search", "error", "--attempt", "2"], []),
        (["--search", "start", "-C", "1"], [0, 1, None, 3, 4, 5]),
        (["--search", "rank", "-C", "2"], [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_lines_of_a_log_are_chosen(
    run: Run, store: JobStore, settings: Settings, words: list[str], lines: list[int | None]
) -> None:
    job = fail(store)
    write(settings, job, "logs/output.log", LOG)
    sizes = [LOG.index("[2] start"), LOG.index("[2] end"), len(LOG)]
    times = [time.time() - ago for ago in (2000, 100, 10)]
    rows = (f"{size} {at}\n" for size, at in zip(sizes, times, strict=True))
    write(settings, job, "logs/output.times", "".join(rows))
    printed = run("logs", job.id, *words).stdout.splitlines()
    all_lines = LOG.splitlines()
    assert printed == ["--" if line is None else all_lines[line] for line in lines]


def test_options_of_logs_that_contradict_are_refused(run: Run, store: JobStore) -> None:
    job = submit(store)
    assert "without --follow" in run("logs", job.id, "--search", "a", "-f", code=2).stderr
    assert "not both" in run("logs", job.id, "--failed", "--attempt", "1", code=2).stderr
    assert "No attempt of" in run("logs", job.id, "--failed", code=1).stderr
    assert "is no duration" in run("logs", job.id, "--since", "tomorrow", code=2).stderr


def rows(count: int = 100) -> str:
    found = [{"step": n, "loss": 5.0 / (n + 1), "val/loss": 1.0 + n} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in found)


def test_metrics_are_a_table_with_curves(run: Run, store: JobStore, settings: Settings) -> None:
    job = fail(store)
    write(settings, job, "logs/metrics.jsonl", rows() + '{"step": 100, "loss": "NaN"}\n')
    lines = run("metrics", job.id).stdout.splitlines()
    assert lines[0].split() == ["metric", "rows", "last", "min", "max", "curve"]
    (loss,) = [line.split() for line in lines if line.startswith("loss ")]
    assert loss[1:5] == ["101", "nan", "0.05", "5"]
    assert loss[5].startswith("█")
    assert loss[5].endswith("x"), "what is no number is shown"
    only = run("metrics", job.id, "val*").stdout
    assert "val/loss" in only
    assert "\nloss" not in only
    (found,) = json.loads(run("metrics", job.id, "val/loss", "--json").stdout)
    assert (found["last"], found["min"], found["rows"]) == (100.0, 1.0, 100)
    assert "No metrics found" in run("metrics", job.id, "nothing").stderr


def test_a_terminal_without_unicode_gets_what_it_can_show(
    run: Run, api_url: str, store: JobStore, settings: Settings
) -> None:
    job = fail(store)
    write(settings, job, "logs/metrics.jsonl", rows())
    for command in ("metrics", "plot"):
        done = CliRunner(charset="ascii").invoke(cli, ["--url", api_url, command, job.id])
        assert done.exit_code == 0, done.exception
        assert "loss" in done.stdout


def test_a_curve_is_drawn_with_the_beginnings_of_attempts(
    run: Run, store: JobStore, settings: Settings
) -> None:
    job = fail(store, attempts=2)
    write(settings, job, "logs/metrics.jsonl", rows())
    picture = run("plot", job.id, "--width", "60", "--height", "8").stdout
    lines = picture.splitlines()
    assert [line.split("┤")[0].strip() for line in lines[:8] if "┤" in line] == [
        "5", "", "", "", "2.525", "", "", "0.05",
    ]  # fmt: skip
    assert lines[0].split("┤")[1].lstrip().startswith(("⡇", "⣇", "⢸", "⡀", "⠉", "⠁", "⣧", "⢇", "⢹"))
    assert lines[-2].split() == ["0", "49.5", "99", "step"]
    assert lines[-1].split() == ["━", "loss", "▲", "an", "attempt", "began"]
    # Of the second attempt, which began with step 20 of 99; the third has made no step.
    (mark,) = [line.index("▲") for line in lines[:-1] if "▲" in line]
    assert mark == pytest.approx(12 + 42 * 20 / 99, abs=1)
    assert max(map(len, lines)) <= 60


def test_a_logarithmic_scale_has_its_middle_at_the_geometric_mean(
    run: Run, store: JobStore, settings: Settings
) -> None:
    job = fail(store)
    text = "".join(f'{{"step": {n}, "loss": {10.0**-n}, "zero": {-n}}}\n' for n in range(5))
    write(settings, job, "logs/metrics.jsonl", text)
    lines = run("plot", job.id, "--log", "--height", "9", "--width", "40").stdout.splitlines()
    assert [line.split("┤")[0].strip() for line in (lines[0], lines[4], lines[8])] == [
        "1", "0.01", "0.0001",
    ]  # fmt: skip
    assert "logarithmic scale needs" in run("plot", job.id, "zero", "--log").stdout
    assert "has no metric 'lr'; it has loss, zero" in run("plot", job.id, "lr", code=1).stderr


def test_events_are_lines_and_can_be_followed_to_the_end(run: Run, store: JobStore) -> None:
    job = fail(store)
    lines = run("events", job.id).stdout.splitlines()
    assert [line.split()[2] for line in lines][:2] == ["submitted", "started"]
    store.finish(job.id, Attempt(number=2, worker="w", started_at=1.0, ended_at=2.0,
                                 reason=Reason.COMPLETED))  # fmt: skip
    followed = run("events", job.id, "--follow", "--json").stdout.splitlines()
    assert json.loads(followed[-1])["id"] > json.loads(followed[0])["id"]
    other = submit(store, name="b")
    newest = run("events", "-n", "1").stdout.split()
    assert newest[2:4] == [other.id, "submitted"]


def test_what_differs_is_shown(run: Run, store: JobStore, settings: Settings) -> None:
    one = fail(store, env={"LR": "1e-3"})
    two = fail(store, name="b", env={"LR": "3e-4"})
    write(settings, one, "logs/metrics.jsonl", rows())
    write(settings, two, "logs/metrics.jsonl", rows(50).replace("5.0", "5.0"))
    shown = run("diff", one.id, two.id).stdout
    assert [line.split() for line in shown.splitlines() if "env.LR" in line] == [
        ["env.LR", "1e-3", "3e-4"]
    ]
    assert "the same at all steps that both have: loss, val/loss" in shown
    run("diff", one.id, two.id, "--exit-code", code=1)
    run("diff", one.id, one.id, "--exit-code")
    assert "env.LR" in json.loads(run("diff", one.id, two.id, "--json").stdout)["specification"]


def test_ps_is_ls_and_stop_is_cancel(run: Run, store: JobStore) -> None:
    job = submit(store)
    assert job.id in run("ps").stdout
    assert "is cancelled" in run("stop", job.id).stdout
    assert store.get(job.id).state is State.CANCELLED


def test_all_unfinished_jobs_are_cancelled_and_no_other(run: Run, store: JobStore) -> None:
    running = fail(store)
    waiting = [submit(store, labels={"a": "b"}), submit(store)]
    assert "There is no job" in run("cancel", "--all", "--pool", "other").stderr
    run("cancel", "--all", "--label", "a:b", "--yes")
    assert [store.get(job.id).state for job in waiting] == [State.CANCELLED, State.QUEUED]
    done = run("cancel", "--all", "-y").stdout.splitlines()
    assert done == [f"{waiting[1].id} is cancelled", f"{running.id} is running, asked to cancel"]
    assert "give the ID of a job, or --all" in run("cancel", code=2).stderr
    assert "are for --all" in run("cancel", running.id, "--pool", "x", code=2).stderr


def test_open_prints_the_address_of_the_page(run: Run, store: JobStore, api_url: str) -> None:
    job = submit(store)
    assert run("open", job.id).stdout == f"{api_url}/?view=job&id={job.id}\n"
    assert run("open").stdout == f"{api_url}/\n"


def test_the_id_of_a_job_may_begin_with_a_dash(run: Run, store: JobStore) -> None:
    job = submit(store, name="-odd")
    assert job.id.startswith("-odd-")
    assert job.id in run("show", job.id).stdout
    assert "has priority 7" in run("change", job.id, "--priority", "7").stdout
    assert "No such option" in run("show", "-odd", code=2).stderr


def test_several_jobs_are_compared(run: Run, store: JobStore, settings: Settings) -> None:
    found = [fail(store, name=name, env={"LR": name}) for name in ("a", "b", "c")]
    for number, job in enumerate(found):
        write(settings, job, "logs/metrics.jsonl", rows(50 + number))
    shown = run("compare", *(job.id for job in found)).stdout.splitlines()
    cells = {tuple(line.split()) for line in shown}
    assert ("env.LR", "a", "b", "c") in cells
    assert ("loss", "best", "0.1", "0.09804", "0.09615") in cells
    assert ("val/loss", "last", "50", "51", "52") in cells
    assert ("loss", "none", "none") in cells, "from which step on they differ from the first"
    assert json.loads(run("compare", found[0].id, found[1].id, "--json").stdout)["jobs"]
    assert "at least two jobs" in run("compare", found[0].id, code=2).stderr


def test_a_dry_run_says_what_would_become_of_a_job_and_submits_nothing(
    run: Run, store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    words = ("submit", "--dry-run", "--workspace", ".", "--name", "a", "--", "true")
    lines = run(*words).stdout.splitlines()
    assert lines[0] == "a is a valid job for pool default; nothing was submitted."
    assert lines[1].split(None, 1) == ["queue", "no job ahead of it, no worker in the pool"]
    assert lines[2].split(None, 1) == ["start", "pool 'default' has no worker"]
    assert run(*words).stderr.startswith("workspace: 1 file,")
    plan = json.loads(run(*words[:2], "--json", *words[2:]).stdout)
    assert (plan["position"], plan["workers"], plan["evicts"]) == (0, 0, [])
    assert not list(store.newest())
    (tmp_path / "link").symlink_to("/mnt/data")
    assert "The workspace cannot be sent" in run(*words, code=1).stderr
    assert "gpus: given -1" in run("submit", "-", "--dry-run", code=1,
                                   input='{"name": "a", "command": ["t"], '
                                   '"resources": {"gpus": -1}}').stderr  # fmt: skip


def test_a_dry_run_of_a_foreign_task_has_the_file_and_beside_it_the_plan(
    run: Run, store: JobStore, tmp_path: Path
) -> None:
    (tmp_path / "sky.yaml").write_text("name: a\nenvs: {LR: 1e-3}\nrun: train --lr $LR\n")
    words = ("submit", "--from", str(tmp_path / "sky.yaml"), "--dry-run")
    done = run(*words)
    assert done.stdout == "name: a\nenv:\n  LR: '1e-3'\nrun: train --lr $LR\n"
    said = done.stderr.splitlines()[-3:]
    assert said[0] == "a is a valid job for pool default; nothing was submitted."
    assert [line.split()[0] for line in said[1:]] == ["queue", "start"]
    assert run("submit", "-", "--dry-run", input=done.stdout).stdout.splitlines() == said
    both = json.loads(run(*words, "--json").stdout)
    assert (both["job"]["name"], both["plan"]["position"]) == ("a", 0)
    assert not list(store.newest())


def test_a_dry_run_names_the_job_that_would_make_room(run: Run, store: JobStore) -> None:
    WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60).renew(
        "w", pool="default", host="w", gpus=[]
    )
    submit(store, priority=1)
    running = store.claim("default", "w")
    assert running is not None
    job = '{"name": "urgent", "command": ["t"], "priority": 9}'
    said = run("submit", "-", "--dry-run", input=job).stdout
    assert f"evicts   {running.id}" in said
    assert "1 worker in the pool" in said


def test_a_waiting_job_says_when_it_is_likely_to_start(run: Run, store: JobStore) -> None:
    WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60).renew(
        "w", pool="default", host="w", gpus=[]
    )
    submit(store)
    running = store.claim("default", "w")
    assert running is not None
    seen = Progress(step=10, total_steps=100, first_step=0, step_seconds=10.0, seconds_left=300.0)
    store.renew(running.id, 1, seen)
    waiting = submit(store)
    said = run("show", waiting.id).stdout
    assert "it is next, and the worker is busy" in said
    assert "starts in about " in said


def test_my_jobs_are_those_of_my_account(
    store: JobStore, settings: Settings, make_app: MakeApp
) -> None:
    accounts = settings.model_copy(update={"api_tokens": "secret"})
    server = make_server("127.0.0.1", 0, make_app(accounts), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        theirs = submit(store, name="theirs")
        with Client(url, "secret") as client:
            mine = client.submit({"name": "mine", "command": ["true"]})
        words = ["--url", url, "--token", "secret"]
        listed = CliRunner().invoke(cli, [*words, "ls", "--mine"]).stdout
        assert mine.id in listed
        assert theirs.id not in listed
        done = CliRunner().invoke(cli, [*words, "cancel", "--all", "-y"])
        assert done.stdout == f"{mine.id} is cancelled\n"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert store.get(theirs.id).state is State.QUEUED


def test_a_fork_takes_its_changes_from_the_command_line(
    run: Run, store: JobStore, settings: Settings
) -> None:
    job = fail(store, env={"LR": "1e-2"})
    write(settings, job, "work/out.txt", "x")
    words = ("--set", "env.LR=1e-3", "--set", "limits.run_seconds=60", "--name", "again")
    forked = store.get(run("fork", job.id, *words).stdout.strip())
    assert forked.spec.name == "again"
    assert forked.spec.env == {"LR": "1e-3"}, "a word stays as it is typed"
    assert forked.spec.limits.run_seconds == 60
    assert forked.forked_from is not None
    assert forked.forked_from.job == job.id
    assert "is not of the form KEY=VALUE" in run("fork", job.id, "--set", "a", code=2).stderr
    assert "unknown field" in run("fork", job.id, "--set", "envv.A=b", code=1).stderr
    assert "checkpoint" in run("fork", job.id, "--step", "7", code=1).stderr
