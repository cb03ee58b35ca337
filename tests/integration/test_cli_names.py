"""Jobs by their names: what a command does where several jobs have the one that is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from api.cli.main import cli
from api.cli.shared.completion import JobId
from jobs.model.record import Attempt, Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason
from jobs.settings import Settings
from jobs.store.jobs import JobStore

Run = Callable[..., Result]
# What each command that looks at a job needs beside its name.
LOOKING: dict[str, list[str]] = {
    "show": [], "logs": [], "events": [], "metrics": [], "plot": [], "fetch": ["out"],
    "open": [], "watch": [],
}  # fmt: skip
CHANGING: dict[str, list[str]] = {
    "cancel": [], "preempt": [], "pause": [], "resume": [], "retry": [], "fork": [], "rm": [],
    "change": ["--priority", "7"],
}  # fmt: skip
SEVERAL = {"diff", "compare"}


@pytest.fixture
def run(api_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(cli, ["--url", api_url, *words])
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture
def waves(store: JobStore, settings: Settings) -> list[Job]:
    """Two jobs of one name, the newest first, both at their end, and one whose name begins so."""
    found = []
    for name in ("wave", "wave", "wave-2"):
        store.submit(JobSpec(name=name, command=["true"]))
        job = store.claim("default", "w")
        assert job is not None
        ended = Attempt(
            number=1, worker="w", started_at=1.0, ended_at=2.0, reason=Reason.COMPLETED
        )  # fmt: skip
        store.finish(job.id, ended)
        found.append(job)
    return [found[1], found[0], found[2]]


def about_jobs(command: click.Command, name: str = "") -> Iterator[str]:
    """The commands with an argument that is a job."""
    if isinstance(command, click.Group):
        for inner, one in command.commands.items():
            yield from about_jobs(one, f"{name} {inner}".strip())
    if any(isinstance(one.type, JobId) for one in command.params):
        yield name


def test_each_command_on_a_job_is_one_that_looks_or_one_that_changes() -> None:
    assert set(about_jobs(cli)) == LOOKING.keys() | CHANGING.keys() | SEVERAL


@pytest.mark.parametrize("name", LOOKING)
def test_a_command_that_looks_takes_the_newest_and_says_so(
    run: Run, waves: list[Job], name: str
) -> None:
    done = run(name, "wave", *LOOKING[name], code=1 if name == "plot" else 0)
    said = f"2 jobs match 'wave'; this is the newest, {waves[0].id}."
    assert done.stderr.splitlines()[0] == said
    assert waves[1].id not in done.output


@pytest.mark.parametrize("name", CHANGING)
def test_a_command_that_changes_lists_the_candidates_and_changes_nothing(
    run: Run, waves: list[Job], store: JobStore, name: str
) -> None:
    before = list(store.newest())
    done = run(name, "wave", *CHANGING[name], code=1)
    first, *lines = done.stderr.splitlines()
    assert first == "Error: 2 jobs match 'wave'; give the id of one:"
    assert [line.split()[:2] for line in lines] == [[job.id, "succeeded"] for job in waves[:2]]
    assert all(re.search(r" \d+ s old$", line) for line in lines)
    assert done.stdout == ""
    assert list(store.newest()) == before


def test_what_means_one_job_is_taken_without_a_word(run: Run, waves: list[Job]) -> None:
    newest = waves[2].id
    for text in (newest, newest[-5:], "wave-2", "wave-2-"):
        assert run("show", text).stderr == ""
    assert waves[0].id in run("show", waves[0].id[-5:]).stdout
    assert "There is no job 'nobody'" in run("show", "nobody", code=1).stderr
    run("rm", "wave-2")


def test_a_name_that_means_the_other_job_of_a_comparison_is_ambiguous(
    run: Run, waves: list[Job]
) -> None:
    newest, other = waves[0].id, waves[1].id
    assert "this is the newest" in run("diff", other, "wave").stderr
    for words in (("diff", newest, "wave"), ("diff", "wave", "wave"), ("compare", "wave", newest)):
        assert "give the id of one" in run(*words, code=1).stderr
    run("diff", newest, newest)
