"""What the command line shows on a terminal: live, and without what would act on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from api.cli.main import cli
from jobs.model.record import Attempt, Job, Progress
from jobs.model.spec import JobSpec
from jobs.model.states import Reason
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.pseudo_terminal import on_a_terminal

# Moves the cursor, clears the screen, sets the title, writes the clipboard, asks the terminal for
# an answer that the shell would read, opens a link, switches the screen; and a bell.
ACTS = (
    "\x1b[2J\x1b[H\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x1b[6n\x1b]8;;http://evil\x1b\\"
    "\x1b[?1049h\x1bc\x1bP+q544e\x1b\\\x9b2J\x07\x08\x0e"
)
RED = "\x1b[31mred\x1b[0m"
# What the command line itself may write: colours, moves and the screen of its live display.
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|\?1049[lh]|\d*[AKG]|2K|H|\d+;\d+H)")


def begin(store: JobStore, **spec: Any) -> Job:
    store.submit(JobSpec.model_validate({"name": "a", "command": ["true"], **spec}))
    job = store.claim("default", "w")
    assert job is not None
    return job


def end(store: JobStore, job: Job, reason: Reason = Reason.COMPLETED, **more: Any) -> None:
    given = {"number": 1, "worker": "w", "started_at": 1.0, "ended_at": 2.0, **more}
    store.finish(job.id, Attempt.model_validate({**given, "reason": reason}))


def progress(store: JobStore, job: Job, step: int, loss: float) -> None:
    seen = Progress(step=step, total_steps=100, loss=loss, seconds_left=200.0)
    store.renew(job.id, job.attempt, seen)


def write_log(settings: Settings, job: Job, text: str) -> None:
    log = Path(settings.storage_url.removeprefix("file://"), job.id, "logs/output.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)


@pytest.fixture
def hostile(store: JobStore, settings: Settings) -> Job:
    """A failed job, all of whose texts would act on a terminal."""
    job = begin(
        store, labels={"a": f"{ACTS}label", "b": "[link=http://evil]tag[/link]"},
        retry={"max_failures": 0},
    )  # fmt: skip
    write_log(settings, job, f"[1] {ACTS}{RED} line\n[1] \x1b[1mbold\n")
    end(store, job, Reason.ERROR, message=f"{ACTS}{RED} message", log_tail=[f"{ACTS}last"])
    return job


@pytest.mark.parametrize("words", [["show"], ["logs"], ["events"], ["watch"], ["ls"], ["cancel"]])
def test_nothing_that_a_job_wrote_acts_on_the_terminal(
    api_url: str, hostile: Job, words: list[str]
) -> None:
    given = [*words, *([] if words == ["ls"] else [hostile.id])]
    with on_a_terminal(*given, SPECTRAIN_URL=api_url) as terminal:
        terminal.wait()
    own = OWN.sub("", terminal.written)
    assert hostile.id in own or words in (["logs"], ["events"])
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", own), own
    assert "owned" not in own
    if words == ["show"]:
        assert "[link=http://evil]tag[/link]" in own, "a text is no markup"


def test_the_colours_of_a_log_stay_on_a_terminal_and_end_with_it(
    api_url: str, hostile: Job
) -> None:
    with on_a_terminal("logs", hostile.id, SPECTRAIN_URL=api_url) as terminal:
        assert terminal.wait() == 0
    assert f"[1] {RED} line\r\n[1] \x1b[1mbold\r\n\x1b[0m" in terminal.written
    # A message is no log: it gets no colours of its own.
    with on_a_terminal("show", hostile.id, SPECTRAIN_URL=api_url) as terminal:
        terminal.wait()
    assert RED not in terminal.written
    assert "red message" in terminal.written


def test_errors_and_json_are_plain_too(api_url: str, hostile: Job) -> None:
    with on_a_terminal("show", f"{ACTS}nothing", SPECTRAIN_URL=api_url) as terminal:
        assert terminal.wait() == 1
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", terminal.written)
    done = CliRunner().invoke(cli, ["--url", api_url, "show", hostile.id, "--json"])
    assert done.stdout.isascii()
    assert "\\u001b[2J" in done.stdout, "JSON keeps what was said, escaped"


def test_the_name_of_a_file_does_not_act_either(
    api_url: str, hostile: Job, settings: Settings, tmp_path: Path
) -> None:
    name = ACTS.replace("/", "")
    write_log(settings, hostile, "")
    (Path(settings.storage_url.removeprefix("file://"), hostile.id) / name).write_text("x")
    words = ("fetch", hostile.id, str(tmp_path / "here"))
    with on_a_terminal(*words, SPECTRAIN_URL=api_url) as terminal:
        assert terminal.wait() == 0
    assert (tmp_path / "here" / name).read_text() == "x"
    assert "2 files, 1 B new" in terminal.written
    assert "owned" not in terminal.written
    assert not re.search(r"[\x07\x08\x0e\x7f-\x9f]", terminal.written)


def test_a_job_is_watched_until_it_ends(api_url: str, store: JobStore) -> None:
    job = begin(store)
    with on_a_terminal("watch", job.id, SPECTRAIN_URL=api_url) as terminal:
        progress(store, job, 10, 5.5)
        terminal.until("step 10/100, loss 5.5, 3 min 20 s left")
        progress(store, job, 20, 2.25)
        terminal.until("step 20/100, loss 2.25")
        terminal.until("█▁")  # its curve
        end(store, job)
        assert terminal.wait() == 0
    assert "succeeded" in terminal.written


def test_the_table_is_watched_until_ctrl_c(api_url: str, store: JobStore) -> None:
    first = begin(store)
    with on_a_terminal("watch", "--interval", "0.2", SPECTRAIN_URL=api_url) as terminal:
        terminal.until(first.id)
        second = store.submit(JobSpec.model_validate({"name": "later", "command": ["true"]}))
        terminal.until(second.id)
        terminal.until("default")  # the pool
        terminal.interrupt()
        assert terminal.wait() == 0
    assert "Traceback" not in terminal.written
    assert terminal.written.rstrip().endswith(("\x1b[?1049l", "\x1b[?25h")), "the screen is back"


def test_submit_waits_and_ctrl_c_leaves_the_job(api_url: str, store: JobStore) -> None:
    words = ("submit", "--wait", "--", "true")
    with on_a_terminal(*words, SPECTRAIN_URL=api_url) as terminal:
        terminal.until("has no worker")
        (submitted,) = store.newest()
        job = store.claim("default", "w")
        assert job is not None
        assert job.id == submitted.id
        progress(store, job, 10, 5.5)
        terminal.until("running, step 10/100, loss 5.5, 3 min 20 s left")
        terminal.interrupt()
        assert terminal.wait() == 130
    assert f"{job.id} goes on; `spectrain cancel {job.id}` ends it." in terminal.written
    assert "Traceback" not in terminal.written


def test_what_became_of_a_job_stays_on_the_terminal(
    api_url: str, store: JobStore, tmp_path: Path
) -> None:
    (tmp_path / "job.json").write_text('{"name": "a", "command": ["true"]}')
    words = ("submit", str(tmp_path / "job.json"), "--wait")
    with on_a_terminal(*words, SPECTRAIN_URL=api_url) as terminal:
        terminal.until("queued: ")
        job = store.claim("default", "w")
        assert job is not None
        end(store, job)
        assert terminal.wait() == 0
    assert OWN.sub("", terminal.written).splitlines()[-1].strip() == f"{job.id} succeeded"
    assert re.search(r"\x1b\[2K[^\n]*succeeded[^\n]*\n\Z", terminal.written), "it is not erased"


def test_in_a_pipe_the_news_of_a_job_are_lines(api_url: str, store: JobStore) -> None:
    job = begin(store, retry={"max_failures": 0})
    end(store, job, Reason.ERROR, message="it broke")
    done = CliRunner().invoke(cli, ["--url", api_url, "watch", job.id])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0].startswith(f"{job.id} ")
    assert "Error: " in done.stderr


def test_cancelling_all_asks_first(api_url: str, store: JobStore) -> None:
    job = begin(store)
    with on_a_terminal("cancel", "--all", SPECTRAIN_URL=api_url) as terminal:
        terminal.until("Cancel this job? [y/N]:")
        terminal.type("n\n")
        assert terminal.wait() == 1
    assert store.get(job.id).request is None
    with on_a_terminal("stop", "--all", SPECTRAIN_URL=api_url) as terminal:
        terminal.until("[y/N]:")
        terminal.type("y\n")
        assert terminal.wait() == 0
    assert store.get(job.id).request == "cancel"


def test_nobody_who_wants_no_colours_gets_those_of_a_log(api_url: str, hostile: Job) -> None:
    with on_a_terminal("logs", hostile.id, SPECTRAIN_URL=api_url, NO_COLOR="1") as terminal:
        assert terminal.wait() == 0
    assert "[1] bold\r\n" in terminal.written
    assert "\x1b" not in terminal.written
