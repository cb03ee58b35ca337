"""What of a run directory may become its next moment."""

from __future__ import annotations

import pytest

from monitoring.storage.moments import Kind
from worker.files.look import Look, Seen
from worker.files.mirror.settle import Settling


def seen(kind: Kind = "file", size: int = 10, time: int = 0) -> Seen:
    return Seen(kind, 1, size, time, 0o644)


BEFORE = {
    "dcp": seen("directory"), "dcp/latest": seen(time=1), "dcp/big.bin": seen(size=1 << 20),
    "dcp/step-1": seen("directory"), "dcp/step-1/data": seen(),
}  # fmt: skip
AFTER = BEFORE | {
    "dcp/latest": seen(time=2), "dcp/big.bin": seen(size=1 << 20, time=2),
    "dcp/step-2": seen("directory"), "dcp/step-2/data": seen(),
}  # fmt: skip


def settling() -> Settling:
    return Settling(lambda *_: False, lambda *_: False)


def taken_after(looks: list[Look]) -> Look:
    """What is taken in the last of these looks, a second apart."""
    found = settling()
    for number, look in enumerate(looks):
        cut = found.cut(look, BEFORE, float(number))
    return cut.taken


def test_what_may_point_to_a_new_folder_counts_no_sooner_than_the_folder() -> None:
    """The program writes a checkpoint each second: something is being filled all the time."""
    looks = [BEFORE | {f"part-{number}": seen()} for number in range(6)]
    looks += [AFTER | {f"part-{number}": seen()} for number in (6, 7)]
    taken = taken_after(looks)
    assert "dcp/step-2/data" not in taken
    assert "dcp/latest" not in taken
    assert taken["dcp/big.bin"].modified_ns == 2, "too large to be a pointer"


@pytest.mark.parametrize("orderly", [False, True])
def test_a_killed_program_leaves_no_pointer_to_a_folder_that_does_not_count(
    orderly: bool,
) -> None:
    found = settling()
    found.cut(BEFORE, BEFORE, 0.0)
    found.cut(AFTER, BEFORE, 1.0)
    taken = found.at_end(AFTER, BEFORE, orderly=orderly).taken
    assert ("dcp/latest" in taken) == ("dcp/step-2/data" in taken) == orderly


def test_a_program_that_makes_folders_all_the_time_has_its_small_files_kept_too() -> None:
    found = settling()
    published = dict(BEFORE)
    kept = []
    for second in range(60):
        folder = f"dcp/cache-{second}"
        look = BEFORE | {
            "dcp/latest": seen(time=second), folder: seen("directory"), f"{folder}/x": seen(),
        }  # fmt: skip
        taken = found.cut(look, published, float(second)).taken
        if taken.get("dcp/latest", published["dcp/latest"]) != published["dcp/latest"]:
            kept.append(second)
            published["dcp/latest"] = taken["dcp/latest"]
    assert 2 <= len(kept) <= 6
