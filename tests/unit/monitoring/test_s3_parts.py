"""Objects are made of parts of one size, of which only the last is smaller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from monitoring.storage.s3.parts import MIN_PART, copy_ranges, pieces, plan_of

GB = 1 << 30
LARGEST = 5 * GB


def are_equal(sizes: list[int]) -> bool:
    *parts, last = sizes
    return len(set(parts)) <= 1 and all(last <= part for part in parts)


@given(some.integers(MIN_PART, 60 * GB), some.integers(0, 20 << 20))
def test_an_addition_makes_equal_parts_at_any_size(offset: int, added: int) -> None:
    plan = plan_of(offset)
    start, end = plan.rest
    sizes = [stop - begin for begin, stop in plan.copied]
    assert plan.copied[0][0] == 0
    assert [begin for begin, _ in plan.copied[1:]] == [stop for _, stop in plan.copied[:-1]]
    assert (start, end) == (plan.copied[-1][1], offset)
    assert end - start < len(plan.copied), "it is fetched and sent again"
    left = end - start + added
    sent = [min(plan.size, left - at) for at in range(0, left, plan.size)]
    assert are_equal([*sizes, *sent])
    assert all(MIN_PART <= size <= LARGEST for size in sizes)


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (LARGEST, 1), (LARGEST + 1, 2), (3 * LARGEST - 1, 3), (0, 0)]
)
def test_a_copy_has_as_few_equal_parts_as_it_can(size: int, count: int) -> None:
    ranges = copy_ranges(size)
    assert len(ranges) == count
    assert sum(end - start for start, end in ranges) == size
    assert not ranges or are_equal([end - start for start, end in ranges])
    assert all(end - start <= LARGEST for start, end in ranges)


def test_new_bytes_are_cut_into_parts() -> None:
    assert pieces(b"abcdefg", 3) == [b"abc", b"def", b"g"]
    assert pieces(b"", 3) == []
