"""The checks of the gauntlet see what they are for."""

from __future__ import annotations

from pathlib import Path

from bench.gauntlet.checks import resumes, state_flaws, stop_flaws
from bench.gauntlet.kinds import KINDS, PROGRAMS, SETTLED_SECONDS
from bench.gauntlet.ledger import Event, Ledger
from bench.gauntlet.strikes import Blow, Strike, Struck, strikes

OLD, FRESH = 100 - SETTLED_SECONDS - 1, 99.0


def event(at: float, attempt: int, name: str, step: int = 0) -> Event:
    return Event(at, attempt, name, step, {})


def struck(attempt: int, at: float) -> Struck:
    return Struck(Strike(Blow.KILL_WORKER, 5.0, False, 0.0), attempt, at)


FIRST = [
    event(80, 1, "resumed"), event(OLD, 1, "saved", 40), event(OLD + 1.5, 1, "step", 50),
    event(FRESH, 1, "saved", 80),
]  # fmt: skip


def flaws(*events: Event, hits: tuple[Struck, ...] = (struck(1, 100),)) -> list[str]:
    return [flaw for _, flaw in resumes([*FIRST, *events], hits, SETTLED_SECONDS) if flaw]


def test_a_checkpoint_that_was_whole_for_long_may_not_be_lost() -> None:
    assert not flaws(event(105, 2, "resumed", 80))
    assert not flaws(event(105, 2, "resumed", 40)), "the newest was saved a second before"
    assert "although step 40 was whole" in flaws(event(105, 2, "resumed", 0))[0]


def test_a_program_resumes_from_what_it_had_completed() -> None:
    assert "never complete" in flaws(event(105, 2, "resumed", 60))[0]


def test_what_was_lost_once_is_no_floor_later_and_what_was_kept_is() -> None:
    second = event(105, 2, "resumed", 40)
    hits = struck(1, 100), struck(2, 106)
    assert not flaws(second, event(110, 3, "resumed", 40), hits=hits)
    assert flaws(second, event(110, 3, "resumed", 0), hits=hits)


def test_lost_steps_and_seconds_are_counted() -> None:
    ((found, _),) = resumes(
        [*FIRST, event(105, 2, "resumed", 40)], [struck(1, 100)], SETTLED_SECONDS
    )
    assert (found.step, found.lost_steps, found.lost_seconds) == (40, 40, 1.0)


def test_a_program_that_stopped_in_order_goes_on_from_there() -> None:
    stopped = event(10, 1, "stopped", 33)
    assert not list(stop_flaws([stopped, event(12, 2, "resumed", 33)]))
    assert list(stop_flaws([stopped, event(12, 2, "resumed", 20)]))


def test_another_end_and_none_are_flaws() -> None:
    assert not list(state_flaws("a", "a"))
    assert list(state_flaws("a", "b"))
    assert list(state_flaws(None, "b"))


def test_the_strikes_depend_on_the_seed_alone_and_have_each_blow_once() -> None:
    assert strikes(7, "nanoGPT") == strikes(7, "nanoGPT")
    assert strikes(7, "nanoGPT") != strikes(8, "nanoGPT")
    assert {strike.blow for strike in strikes(7, "Hydra")} == set(Blow)


def test_every_program_is_there_and_there_are_at_least_twelve_kinds() -> None:
    names = [kind.name for kind in KINDS]
    assert len(set(names)) == len(names) >= 12
    for kind in KINDS:
        for word in kind.command:
            if word.endswith(".py"):
                assert Path(word).is_file()
    used = " ".join(word for kind in KINDS for word in kind.command)
    written = {path.name for path in PROGRAMS.glob("*.py")} - {"tiny.py"}
    assert all(name in used for name in written)


def test_a_line_that_is_being_written_is_no_event_yet(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    path.write_text('{"at": 1, "attempt": 1, "event": "begun", "step": 0}\n{"at": 2, ')
    assert [found.event for found in Ledger(path).events()] == ["begun"]
    assert Ledger(path).has_begun(1)
    assert not Ledger(path).has_begun(2)
