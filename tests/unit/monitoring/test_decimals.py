"""Decimals: numbers nearly right at once, and exactly right when asked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.metrics.decimals import ERROR, Decimals

FLOATS = st.floats(-1e280, 1e280).filter(lambda x: x == 0 or abs(x) > 1e-260)


def parse(text: str, rows: int = 1, exponents: tuple[bool, ...] = (False,)) -> Decimals:
    return Decimals(text.replace("e", ",").encode(), rows, exponents)


@given(
    st.integers(-(10**18), 10**18),
    st.lists(st.tuples(st.integers(-(2**53), 2**53), FLOATS, FLOATS), min_size=1),
)
def test_every_number_is_within_the_error_and_exact_when_asked(
    first: int, rows: list[tuple[int, float, float]]
) -> None:
    table = [[float(first), float(a), float(f"{b:.16e}"), float(f"{c:.9e}")] for a, b, c in rows]
    text = "".join(f"{first},{a},{b:.16e},{c:.9e}," for a, b, c in rows)
    decimals = parse(text, len(rows), (False, False, True, True))
    expected = np.array(table)
    assert (np.abs(decimals.values - expected) <= ERROR * np.abs(expected)).all()
    row, column = np.indices(expected.shape).reshape(2, -1)
    assert decimals.exactly(row, column).tolist() == expected.ravel().tolist()


@given(st.lists(st.floats(1e-4, 1e15, exclude_max=True), min_size=1))
def test_plain_decimals_need_no_exponent(values: list[float]) -> None:
    decimals = parse("".join(f"{value!r}," for value in values), len(values))
    rows = np.arange(len(values))
    assert decimals.exactly(rows, np.zeros_like(rows)).tolist() == values


@pytest.mark.parametrize(
    "text", ["1.2.3,", "-,", "-.5,", "1-2,", ",", "1,2,", "", "1e5,", "9" * 30 + ",", "1.5x,"]
)
def test_what_is_no_table_is_refused(text: str) -> None:
    with pytest.raises((ValueError, DeprecationWarning)):
        parse(text)


def test_numbers_too_far_from_one_are_refused() -> None:
    with pytest.raises(ValueError, match="too far"):
        parse("1.5e-310,", 1, (True,))
