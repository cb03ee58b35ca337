"""When an attempt starts from an older moment of its run."""

from __future__ import annotations

import pytest

from jobs.model.record import Attempt, Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from monitoring.storage.moments import Entry, Moment
from worker.failures.going_back import moment_to_avoid

SPEC = JobSpec(name="a", command=["true"])


def moment(attempt: int, number: int, **files: tuple[str, int]) -> Moment:
    entries = {
        path: Entry("file", size, content=content, grows=path.startswith("log"))
        for path, (content, size) in files.items()
    }
    return Moment(attempt, number, 0.0, entries)


START = moment(1, 1, model=("one", 1000), log=("log", 5_000_000))


def avoided(
    *later: Moment,
    reason: Reason = Reason.ERROR,
    seconds: float = 30,
    exit_code: int = 1,
    failures: int = 1,
    last_step: int | None = None,
) -> str | None:
    """What the third attempt avoids, after the second resumed from `START` and left `later`."""
    ended = [
        Attempt(number=1, worker="w", started_at=0, ended_at=9, reason=Reason.PREEMPTED,
                last_step=last_step),
        Attempt(number=2, worker="w", started_at=10, ended_at=10 + seconds, reason=reason,
                moment=START.name, exit_code=exit_code),
        Attempt(number=3, worker="w", started_at=100),
    ]  # fmt: skip
    job = Job(id="a-1", spec=SPEC, state=State.RUNNING, attempt=3, attempts=ended,
              failures=failures, submitted_at=0, queued_at=0, sequence=1, priority=5)  # fmt: skip
    return moment_to_avoid(job, lambda: [START, *later])


def test_an_attempt_that_left_nothing_may_have_failed_by_what_it_resumed_from() -> None:
    assert avoided() == START.name


@pytest.mark.parametrize("files", [
    {"model": ("one", 1000), "settings": ("s", 400)},
    {"model": ("one", 1000), "log": ("log", 9_000_000)},
    {},
])  # fmt: skip
def test_logs_and_settings_do_not_show_that_it_was_loaded(
    files: dict[str, tuple[str, int]],
) -> None:
    assert avoided(moment(2, 2, **files)) == START.name


@pytest.mark.parametrize("files", [{"model": ("two", 1000)}, {"other": ("two", 900)}])
def test_an_attempt_that_saved_has_loaded_what_it_resumed_from(
    files: dict[str, tuple[str, int]],
) -> None:
    """It was killed later: to go back would lose what it has saved."""
    assert avoided(moment(2, 2, **files)) is None


def test_an_attempt_that_was_taken_away_is_no_sign() -> None:
    assert avoided(reason=Reason.LOST) is None
    assert avoided(reason=Reason.PREEMPTED) is None


def test_a_program_that_ran_for_long_has_made_steps() -> None:
    assert avoided(seconds=600) is None


@pytest.mark.parametrize(("exit_code", "goes_back"), [(137, False), (143, False), (139, True)])
def test_who_is_killed_does_not_fail_by_what_it_resumed_from(
    exit_code: int, goes_back: bool
) -> None:
    assert (avoided(exit_code=exit_code) == START.name) is goes_back


@pytest.mark.parametrize("last_step", [None, 10])
def test_who_is_killed_before_a_step_loses_no_checkpoint(last_step: int | None) -> None:
    assert avoided(last_step=last_step) == START.name
    assert avoided(last_step=last_step, exit_code=137) is None


def test_who_has_a_job_retried_gets_its_newest_moment() -> None:
    assert avoided(failures=0) is None
