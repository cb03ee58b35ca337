"""When an attempt counts as lost."""

from __future__ import annotations

import pytest

from jobs.reaper.reaper import Observed, is_lost
from jobs.store.queues import ExpiredLease

LEASE = ExpiredLease("a-1", expired_at=100.0)
LONG_THERE = Observed(redis_since=0.0, reaper_since=0.0)


@pytest.mark.parametrize(
    ("sign", "now", "watch", "lost"),
    [
        pytest.param(None, 101, LONG_THERE, True, id="both signs agree"),
        pytest.param(80, 101, LONG_THERE, True, id="storage has been silent for a period"),
        pytest.param(95, 101, LONG_THERE, False, id="storage moved a moment ago"),
        pytest.param(None, 101, Observed(90, 0), False, id="Redis has just come up"),
        pytest.param(None, 101, Observed(0, 90), False, id="the reaper has just come up"),
        pytest.param(None, 106, Observed(90, 91), True, id="both have watched for a period"),
        pytest.param(None, 99, LONG_THERE, False, id="the lease still runs"),
    ],
)
def test_nobody_is_declared_dead_on_one_sign_or_by_an_absent_judge(
    sign: float | None, now: float, watch: Observed, lost: bool
) -> None:
    assert is_lost(LEASE, sign, now, 15.0, watch) is lost
