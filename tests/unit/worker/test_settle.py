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
    filled = {"new": seen("directory")}
    looks = [BEFORE | filled | {f"new/{number}": seen()} for number in range(6)]
    looks += [AFTER | filled | {f"new/{number}": seen()} for number in (6, 7)]
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
        cut = found.cut(look, published, float(second))
        if "dcp" in cut.restless and "dcp/latest" not in cut.apart:
            kept.append(second)
            published["dcp/latest"] = look["dcp/latest"]
    assert 2 <= len(kept) <= 6


def test_a_folder_in_which_something_is_always_written_is_copied_at_one_time() -> None:
    """A database and its journal, which comes and goes, hold up neither each other nor the rest."""
    published = {"study.db": seen(time=-1), "study.db-journal": seen(), "other": seen("directory")}
    found = Settling(lambda *_: False, lambda *_: False, is_open=lambda path, *_: "study" in path,
                     is_consistent=lambda path: "study" in path)  # fmt: skip
    for second in range(20):
        look: Look = {"study.db": seen(time=second), "other": seen("directory"), "other/x": seen()}
        if second % 3 == 0:
            look["study.db-journal"] = seen(time=second)
        cut = found.cut(look, published, float(second))
    assert cut.restless == {""}
    assert cut.apart == frozenset()
    assert cut.held == {"study.db", "study.db-journal"}, "until they are copied"
    assert "other/x" in cut.taken


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_checkpoint_that_is_written_for_long_does_not_count(is_archive: bool) -> None:
    """A mapped file is kept open for ever; an archive is of no use until it is whole."""
    found = Settling(lambda *_: False, lambda *_: False, is_open=lambda path, *_: path == "big",
                     is_archive=lambda _: is_archive)  # fmt: skip
    published = {"big": seen(time=-1)}
    for second in range(30):
        # It changes at every other look.
        cut = found.cut({"big": seen(time=second // 2)}, published, float(second))
        assert "big" not in cut.taken
        if second < 5:
            assert cut.restless == frozenset() or cut.apart == {"big"}
    assert cut.restless == {""}
    assert cut.apart == ({"big"} if is_archive else set())


@pytest.mark.parametrize(("open_until", "counts"), [(0, True), (200, False)])
def test_a_new_folder_that_is_filled_for_ever_counts_at_last(open_until: int, counts: bool) -> None:
    """Not while somebody has a file in it open: that may be a checkpoint of many minutes."""
    found = Settling(lambda *_: False, lambda *_: False,
                     is_open=lambda path, *_: path.endswith("/x"),
                     is_archive=lambda path: path.endswith("/x"))  # fmt: skip
    look: Look = {"out": seen("directory")}
    for second in range(100):
        look = {**look, f"out/{second}": seen(time=second)}
        if second < open_until:
            look["out/x"] = seen(time=second)
        cut = found.cut(look, {}, float(second))
        assert second > 50 or not cut.restless
    assert cut.restless == ({"out"} if counts else set())
    assert ("out" in cut.taken) is counts


def test_a_new_folder_with_a_database_counts_although_that_is_written_all_the_time() -> None:
    found = Settling(lambda *_: False, lambda *_: False, is_open=lambda *_: True,
                     is_consistent=lambda path: path == "out/study.db")  # fmt: skip
    for second in range(12):
        look = {"out": seen("directory"), "out/study.db": seen(time=second)}
        cut = found.cut(look, {}, float(second))
    assert cut.restless == {"out"}
    assert "out" in cut.taken
