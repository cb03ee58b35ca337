"""What names an input in the cache, which names are refused, and how URLs are read."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.settings import Settings
from worker.cache.cache import Cache, Unwanted
from worker.inputs import fetch, source
from worker.inputs.bucket import BucketSource
from worker.inputs.directory import DirectorySource
from worker.inputs.open import open_source
from worker.inputs.source import Check, InputChangedError, InputError, Item, Listing
from worker.inputs.threads import in_threads
from worker.inputs.web import WebSource

URL = "s3://bucket/data"
A, B = Item("a", 3, "one"), Item("folder/b", 4, "two")
NAMES = st.from_regex(r"[a-z0-9 ∿]{1,8}", fullmatch=True)
ITEMS = st.lists(
    st.builds(Item, NAMES, st.integers(0, 1 << 50), NAMES),
    min_size=1, unique_by=lambda item: item.path,
)  # fmt: skip


def version(*items: Item, is_file: bool = False) -> str:
    return Listing.of(items, URL, is_file=is_file).version


@given(items=ITEMS, data=st.data())
def test_a_version_does_not_depend_on_the_order(items: list[Item], data: st.DataObject) -> None:
    assert version(*items) == version(*data.draw(st.permutations(items)))


@given(one=ITEMS, other=ITEMS)
def test_other_names_sizes_or_versions_are_another_version(
    one: list[Item], other: list[Item]
) -> None:
    assert (version(*one) == version(*other)) == (set(one) == set(other))


def test_each_part_of_an_item_is_in_the_version() -> None:
    parts = [
        (A, B), (A,), (B,), (Item("c", 3, "one"), B), (Item("a", 4, "one"), B),
        (Item("a", 3, "two"), B), (A, B, Item("empty/", 0, "")), (Item("a3", 3, "one"), B),
        (Item("a", 33, "one"), B),
    ]  # fmt: skip
    assert len({version(*items) for items in parts}) == len(parts)
    assert version(A) != version(A, is_file=True), "a file is no folder with a file"


def test_a_listing_knows_its_sizes_and_folders() -> None:
    listing = Listing.of([A, B, Item("x/y/z/", 0, ""), Item("c", source.UNKNOWN, "")], URL)
    assert (listing.size, listing.files) == (7, 3)
    assert listing.folders == {"folder", "x", "x/y", "x/y/z"}


@pytest.mark.parametrize(
    "path", ["../a", "a/../b", "..", ".", "a/./b", "/a", "a//b", "a/b//", "", "/", "a\0b", "../"]
)
def test_a_name_that_leads_out_or_is_none_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="no path within a directory"):
        Listing.of([A, Item(path, 1, "")], URL)


@pytest.mark.parametrize("path", ["x" * 256, "∿" * 86, "/".join(["x" * 100] * 40)])
def test_a_name_that_no_disk_takes_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="too long"):
        Listing.of([Item(path, 1, "")], URL)


@pytest.mark.parametrize("other", ["folder", "folder/b/c", "folder/b/"])
def test_a_path_that_is_needed_as_file_and_as_folder_is_refused(other: str) -> None:
    for items in ([B, Item(other, 1, "")], [Item(other, 1, ""), B]):
        with pytest.raises(InputError, match="both as a file and as a folder"):
            Listing.of(items, URL)


def test_an_input_without_files_is_none() -> None:
    for items in ([], [Item("empty/", 0, "")]):
        with pytest.raises(InputError, match=f"there is no file at {URL}"):
            Listing.of(items, URL)


def test_a_path_is_there_once() -> None:
    with pytest.raises(InputError, match="twice"):
        Listing.of([A, A], URL)


def test_more_files_than_memory_bears_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MOST_FILES", 3)
    made: list[Item] = []

    def endless() -> object:
        while True:
            made.append(Item(f"{len(made)}", 1, ""))
            yield made[-1]

    with pytest.raises(InputError, match="more than 3 files"):
        Listing.of(endless(), URL)  # type: ignore[arg-type]
    assert len(made) == 4


# -- URLs -------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(scratch_dir=tmp_path, s3_endpoint_url="http://store:1")


def test_a_url_names_its_kind_of_source(settings: Settings) -> None:
    for url, kind in (
        ("s3://bucket/a/b", BucketSource),
        ("file:///data/set", DirectorySource),
        ("file://localhost/data/set", DirectorySource),
        ("https://host/file", WebSource),
        ("http://host:8/", WebSource),
    ):
        assert type(open_source(url, settings)) is kind


@pytest.mark.parametrize(
    "url",
    ["s3://bucket", "s3://bucket/", "s3:///a", "file:///", "file://host/a", "ftp://host/a", "a/b",
     "https://", "http://[", "s3://bucket/a?b", "file:///a#b"],
)  # fmt: skip
def test_a_url_of_no_source_is_refused(url: str, settings: Settings) -> None:
    with pytest.raises(InputError):
        open_source(url, settings)


def test_a_url_is_decoded(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "a b?#").write_text("data")
    listing = open_source(f"file://{tmp_path}/a%20b%3F%23", settings).list(lambda _=0: None)
    assert listing.items[0].path == "a b?#"


def test_the_same_version_elsewhere_is_another_content(settings: Settings) -> None:
    other = settings.model_copy(update={"s3_endpoint_url": "http://store:2"})
    places = [
        open_source(url, settings).place
        for url in ("s3://bucket/a", "s3://bucket/b", "s3://other/a", "file:///a", "file:///b",
                    "https://host/a", "https://host/b", "https://other/a", "https://host/a?id=1",
                    "https://host/a?id=2", "http://host/a")
    ]  # fmt: skip
    places.append(open_source("s3://bucket/a", other).place)
    assert len(set(places)) == len(places)


def test_a_new_signature_of_a_url_names_the_same_content(settings: Settings) -> None:
    first, second = (
        open_source(f"https://host/a?{name}-Date={date}&id=7&{name}-Signature={date}x", settings)
        for name, date in (("X-Amz", 1), ("x-goog", 2))
    )
    assert first.place == second.place == "https://host/a?id=7"
    assert first.url == "https://host/a?…", "a signature is shown to nobody"


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/data.tar.gz", "data.tar.gz"), ("/a%20b", "a b"), ("/", "file"), ("/a/..", "file"),
     ("/a%2Fb", "b"), ("/" + "x" * 300, "file")],
)  # fmt: skip
def test_a_file_from_the_web_has_the_name_in_its_url(path: str, name: str) -> None:
    assert WebSource(f"https://host{path}")._name == name


class Wrong:
    """A source that gives other sizes than it lists."""

    url = place = URL

    def list(self, check: Check) -> Listing:
        return Listing.of([A], URL)

    def fetch(self, item: Item, target: Path, check: Check) -> None:
        target.write_bytes(b"x" * (item.size - 1))


def test_a_file_of_another_size_than_listed_is_not_taken(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "open_source", lambda *_: Wrong())
    with pytest.raises(InputChangedError, match="'a' of s3://bucket/data changed"):
        fetch.fetch_input(Cache(tmp_path, 10**9), URL, settings)


# -- threads ----------------------------------------------------------------------------------


def test_what_hangs_is_left_behind() -> None:
    hangs, ended = threading.Event(), threading.Event()
    begun = time.monotonic()

    def hang() -> None:
        hangs.wait(60)

    def stop() -> None:
        raise Unwanted

    with pytest.raises(Unwanted):
        in_threads(hang, 3, ended, stop)
    assert time.monotonic() - begun < 30, "it did not wait for them"
    assert ended.is_set()
    hangs.set()


def test_the_first_error_of_a_thread_ends_the_others_and_is_raised() -> None:
    ended, turns = threading.Event(), iter([True, False, False])

    def work() -> None:
        if next(turns):
            raise LookupError
        assert ended.wait(60)

    with pytest.raises(LookupError):
        in_threads(work, 3, ended, lambda: None)
