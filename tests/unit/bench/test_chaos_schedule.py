"""What a chaos run does is a function of its seed."""

from __future__ import annotations

from collections import Counter

from bench.chaos.schedule import Action, Strike, Target, strikes, submissions


def schedule(seed: int, seconds: float = 600) -> list[Strike]:
    return strikes(seed, seconds=seconds, every=4, lease=2)


def test_a_seed_repeats_its_strikes_and_its_jobs_and_another_seed_has_others() -> None:
    assert schedule(7) == schedule(7) != schedule(8)
    given = [submissions(seed, jobs=40, kinds=3, seconds=400) for seed in (7, 7, 8)]
    assert given[0] == given[1] != given[2]


def test_strikes_come_in_order_and_within_the_time() -> None:
    times = [strike.at for strike in schedule(1)]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] < 600
    assert len(times) == 150


def test_everything_is_killed_and_stopped() -> None:
    done = Counter((strike.target, strike.action) for strike in schedule(1))
    for target in Target:
        assert done[target, Action.KILL], target
        assert done[target, Action.STOP] or target is Target.OUTAGE, target


def test_what_is_stopped_stands_still_for_longer_than_the_lease() -> None:
    for strike in schedule(1):
        stands = strike.action is Action.STOP or strike.target is Target.OUTAGE
        assert (strike.seconds > 2) == stands


def test_jobs_are_of_mixed_kind_and_priority_and_some_are_there_at_once() -> None:
    given = submissions(1, jobs=40, kinds=3, seconds=400)
    assert [job.at for job in given[:3]] == [0, 0, 0]
    assert {job.kind for job in given} == {0, 1, 2}
    assert len({job.priority for job in given}) > 5
