"""Manifests of moments."""

from __future__ import annotations

import pytest

from monitoring.storage.base import StorageError
from monitoring.storage.moments import Entry, Moment, decode, encode


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_a_manifest_says_what_the_moment_held_however_many_files(count: int) -> None:
    entries = {
        f"work/many/{n}.json": Entry("file", n, 0o644, n, "", f"1-{n}") for n in range(count)
    }
    entries["latest"] = Entry("link", target="work")
    moment = Moment(1, 2, 3.5, entries)
    data = encode(moment)
    assert decode(data, "key") == moment
    assert len(data) < 200 + 60 * count, "a fraction of what it says"


def test_a_manifest_that_is_cut_off_is_no_moment() -> None:
    entries = {f"f{n}": Entry("file", n, content=f"1-{n}") for n in range(3000)}
    for moment in (Moment(1, 1, 0.0, entries), Moment(1, 1, 0.0, {})):
        data = encode(moment)
        for cut in (0, 1, len(data) // 2, len(data) - 1):
            with pytest.raises(StorageError, match="no moment"):
                decode(data[:cut], "key")
