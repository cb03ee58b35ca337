"""Inputs from directories and object stores that fail and change, and the disk they go to."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from api.local.redis_server import free_port
from bench.system.store import BUCKET
from jobs.settings import Settings
from monitoring.storage.base import StorageError
from monitoring.storage.open import open_storage
from monitoring.storage.s3.bucket import Bucket
from monitoring.storage.s3.options import S3Options
from tests.integration.inputs import BLOB, MB, Inputs, content
from tests.integration.one_worker import DiskOf
from worker.cache.cache import CacheFullError
from worker.cache.entries import Entry, entries
from worker.files.copying import Copying
from worker.inputs.bucket import BucketSource
from worker.inputs.directory import DirectorySource
from worker.inputs.open import open_source
from worker.inputs.source import InputChangedError, InputError


@pytest.fixture
def inputs(tmp_path: Path) -> Iterator[Inputs]:
    inputs = Inputs(tmp_path / "cache")
    yield inputs
    inputs.close()


# -- directories ------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a nested file, an empty folder and links within."""
    root = tmp_path / "data"
    (root / "folder/below").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a").write_bytes(b"first")
    (root / "folder/below/b").write_bytes(b"second")
    (root / "link").symlink_to("folder/below/b")
    (root / "folder/up").symlink_to("../empty")
    return root


def test_a_directory_is_fetched_once_and_nobody_may_write_to_it(
    inputs: Inputs, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inputs.have(data.as_uri())
    assert content(found.path) == {
        "a": b"first", "folder/below/b": b"second", "link": b"second", "empty/": b"",
        "folder/up/": b"",
    }  # fmt: skip
    assert (found.files, found.bytes, found.built) == (3, 17, True)
    modes = {path.stat().st_mode & 0o777 for path in found.path.rglob("*") if path.is_file()}
    assert modes == {0o444}
    folders = [found.path, *(path for path in found.path.rglob("*") if path.is_dir())]
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o555}
    monkeypatch.delattr(Copying, "copy")
    again = inputs.have(data.as_uri())
    assert (again.path, again.version, again.built) == (found.path, found.version, False)
    assert (again.files, again.bytes) == (3, 17)


def test_a_program_among_the_files_can_be_run(inputs: Inputs, data: Path) -> None:
    before = inputs.have(data.as_uri())
    (data / "a").chmod(0o755)
    found = inputs.have(data.as_uri())
    assert found.version != before.version
    modes = {name: (found.path / name).stat().st_mode & 0o777 for name in ("a", "folder/below/b")}
    assert modes == {"a": 0o555, "folder/below/b": 0o444}


def test_a_file_stays_a_file_also_through_a_link(
    inputs: Inputs, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "newest.csv").symlink_to(data / "a")
    found = inputs.have((tmp_path / "newest.csv").as_uri())
    assert found.path.name == "newest.csv"
    assert found.path.read_bytes() == b"first"
    assert (found.files, found.bytes) == (1, 5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("../../secret"), r"'folder/x', which leads out .*/secret"),
        (lambda path: path.symlink_to("/etc"), "which leads out of it, to /etc"),
        (lambda path: path.symlink_to("nothing"), "'folder/x', which leads nowhere"),
        (lambda path: path.symlink_to("x"), "which leads nowhere"),
        (lambda path: path.symlink_to(".."), "which leads in circles"),
        (os.mkfifo, "'folder/x' is a pipe"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_the_directory_is_named(
    inputs: Inputs, data: Path, tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    make(data / "folder/x")
    with pytest.raises(InputError, match=words):
        inputs.have(data.as_uri())
    assert inputs.left() == []


def test_a_directory_that_is_not_there_is_said_to_be_missing(
    inputs: Inputs, tmp_path: Path
) -> None:
    for url in (f"{tmp_path.as_uri()}/none", f"{Path(__file__).as_uri()}/below"):
        with pytest.raises(InputError, match=r"there is nothing at .* each worker of the pool"):
            inputs.have(url)


def test_a_disk_that_fails_is_an_outage(
    inputs: Inputs, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Copying, "copy", fail)
    with pytest.raises(OSError, match="input/output error"):
        inputs.have(data.as_uri())


def after_copies(monkeypatch: pytest.MonkeyPatch, change: Callable[[int], None]) -> None:
    """Calls `change` after each copy of a file's bytes, with its number."""
    copy, numbers = Copying.copy, itertools.count(1)

    def copy_and_change(*args: Any) -> None:
        copy(*args)
        change(next(numbers))

    monkeypatch.setattr(Copying, "copy", copy_and_change)


@pytest.mark.parametrize("name", ["a", "new"], ids=["a file", "a name"])
def test_what_changes_while_it_is_fetched_is_fetched_again(
    inputs: Inputs, data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    after_copies(monkeypatch, lambda number: number == 1 and (data / name).write_bytes(b"changed"))
    found = inputs.have(data.as_uri())
    assert content(found.path)[name] == b"changed"
    assert found.bytes == sum(len(file) for file in content(found.path).values())


def test_what_changes_each_time_is_given_up(
    inputs: Inputs, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_copies(monkeypatch, lambda number: (data / "a").write_bytes(b"x" * (number + 5)))
    listings, ask = [], DirectorySource.list
    monkeypatch.setattr(DirectorySource, "list", lambda *given: listings.append(1) or ask(*given))
    with pytest.raises(InputChangedError, match="changed while it was fetched"):
        inputs.have(data.as_uri())
    assert 3 <= len(listings) <= 6, "three fetches, and what follows those that seem whole"
    assert inputs.left() == []


@pytest.mark.parametrize("when", ["before", "meanwhile"])
@pytest.mark.parametrize("how", ["written", "replaced", "removed", "a pipe"])
def test_a_file_that_changes_before_or_while_it_is_copied_is_not_taken(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, how: str
) -> None:
    source = open_source(data.as_uri(), Settings())
    item = next(item for item in source.list(lambda size=0: None).items if item.path == "a")

    def change() -> None:
        if how == "written":
            (data / "a").write_bytes(b"other")
            return
        (data / "a").rename(data / "moved")
        if how == "replaced":
            (data / "a").write_bytes(b"other")
        elif how == "a pipe":
            os.mkfifo(data / "a")

    if when == "before":
        change()
    else:
        after_copies(monkeypatch, lambda _: change())
    with pytest.raises(InputChangedError, match=r"'a' of file://.* changed while"):
        source.fetch(item, tmp_path / "target", lambda size=0: None)
    assert (tmp_path / "target").exists() == (when == "meanwhile"), "nothing is copied in vain"


def test_what_goes_away_while_it_is_listed_is_not_missing_for_good(data: Path) -> None:
    source = open_source(data.as_uri(), Settings())

    def remove(size: int = 0) -> None:
        shutil.rmtree(data, ignore_errors=True)

    with pytest.raises(InputChangedError, match="changed while"):
        source.list(remove)


def test_a_machine_that_numbers_inodes_otherwise_sees_the_same_version(
    inputs: Inputs, data: Path, tmp_path: Path
) -> None:
    first = inputs.have(data.as_uri())
    shutil.copytree(data, tmp_path / "copy")  # with its times
    shutil.rmtree(data)
    (tmp_path / "copy").rename(data)
    assert inputs.have(data.as_uri()).version == first.version


def test_a_version_that_this_machine_has_is_preferred_and_its_source_not_asked(
    inputs: Inputs, data: Path
) -> None:
    old = inputs.have(data.as_uri())
    (data / "a").write_bytes(b"changed")
    new = inputs.have(data.as_uri(), version="0" * 64)
    assert new.version != old.version
    assert content(new.path)["a"] == b"changed"
    data.rename(data.with_name("away"))
    kept = inputs.have(data.as_uri(), version=old.version)
    assert (kept.path, kept.version, kept.built) == (old.path, old.version, False)
    assert (kept.files, kept.bytes) == (old.files, old.bytes)


# -- the disk ---------------------------------------------------------------------------------


def test_room_is_made_before_a_fetch_and_not_more_than_it_needs(
    disk_of: DiskOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(disk_of("8m"))
    for name, size in (("first", 2), ("second", 2), ("third", 2), ("large", 3)):
        (tmp_path / name).write_bytes(BLOB[: size * MB])
    for name in ("first", "second", "third"):
        inputs.have((tmp_path / name).as_uri())
        inputs.close()
        time.sleep(0.02)
    seen: list[int] = []
    after_copies(monkeypatch, lambda _: seen.append(len(whole(inputs))))
    inputs.have((tmp_path / "large").as_uri())
    assert seen == [2], "the first one went, and nothing was copied in vain"
    inputs.close()


def test_what_cannot_fit_is_refused_before_anything_is_fetched_or_evicted(
    disk_of: DiskOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(disk_of("4m"))
    for name, size in (("small", MB), ("held", 2 * MB), ("large", 3 * MB), ("huge", 5 * MB)):
        (tmp_path / name).write_bytes((BLOB * 2)[:size])
    inputs.have((tmp_path / "small").as_uri())
    inputs.close()
    copies: list[int] = []
    after_copies(monkeypatch, copies.append)
    with pytest.raises(CacheFullError, match=r"5\.2 MB are needed .* has room for 4\.\d MB: make"):
        inputs.have((tmp_path / "huge").as_uri())
    assert copies == []
    assert len(whole(inputs)) == 1, "the small one stays"
    inputs.have((tmp_path / "held").as_uri())
    with pytest.raises(CacheFullError, match=r"3\.1 MB are needed .* has room for 2\.\d MB"):
        inputs.have((tmp_path / "large").as_uri())
    assert copies == [1]
    inputs.close()
    inputs.have((tmp_path / "large").as_uri())
    inputs.close()


def test_what_a_killed_worker_left_takes_no_room(disk_of: DiskOf, tmp_path: Path) -> None:
    inputs = Inputs(disk_of("4m"))
    (inputs.root / "input" / ("0" * 64)).mkdir(parents=True)
    (inputs.root / "input" / ("0" * 64) / "draft").write_bytes(BLOB)
    (tmp_path / "large").write_bytes(BLOB)
    inputs.have((tmp_path / "large").as_uri())
    inputs.close()


def whole(inputs: Inputs) -> list[Entry]:
    return [entry for entry in entries(inputs.root) if entry.size() is not None]


# -- object stores ----------------------------------------------------------------------------


@pytest.fixture(params=["moto_server", "seaweedfs_server"])
def s3_server(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


only_moto = pytest.mark.parametrize("s3_server", ["moto_server"], indirect=True)


@pytest.fixture
def store(s3_url: str) -> Bucket:
    return Bucket(BUCKET, S3Options.read())


def put(store: Bucket, url: str, files: dict[str, bytes]) -> None:
    """Writes objects below a URL."""
    for path, body in files.items():
        store.put(url.removeprefix(f"s3://{BUCKET}/") + path, body, {})


def on_requests(monkeypatch: pytest.MonkeyPatch, event: str, action: Callable[..., Any]) -> None:
    """Calls `action` on an event of each client that a source opens from now on."""
    opened = BucketSource._opened.func

    def open_and_register(self: BucketSource) -> Bucket:
        bucket = opened(self)
        for client in (bucket._client, bucket._parts_client):
            client.meta.events.register(event, action)
        return bucket

    changed = cached_property(open_and_register)
    changed.__set_name__(BucketSource, "_opened")
    monkeypatch.setattr(BucketSource, "_opened", changed)


def refusing(status: int, code: str) -> Callable[..., AWSResponse]:
    """What answers a request in place of the store."""
    body = f"<Error><Code>{code}</Code></Error>".encode()

    class Raw:
        def stream(self, **_: Any) -> Iterator[bytes]:
            yield body

    return lambda request, **_: AWSResponse(request.url, status, {}, Raw())


def test_all_objects_below_a_prefix_are_fetched_once(
    inputs: Inputs, store: Bucket, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"/part-{number:02}": b"x" * number for number in range(25)}  # three pages of moto's
    files["/folder/ a∿+%.txt"] = b"name"
    put(store, s3_url, {**files, "/marked/": b"", "-other/a": b"another prefix"})
    found = inputs.have(s3_url)
    wanted = {path.removeprefix("/"): body for path, body in files.items()}
    assert content(found.path) == {**wanted, "marked/": b""}
    assert (found.files, found.bytes) == (26, 304)
    gets: list[str] = []
    on_requests(monkeypatch, "before-send.s3.GetObject", lambda **_: gets.append("get"))
    assert not inputs.have(f"{s3_url}/").built, "the same place"
    assert gets == []
    put(store, s3_url, {"/part-01": b"y"})
    assert inputs.have(s3_url).version != found.version


def test_the_links_of_a_run_are_what_they_lead_to(
    inputs: Inputs, store: Bucket, s3_url: str
) -> None:
    prefix = s3_url.removeprefix(f"s3://{BUCKET}/")
    put(store, s3_url, {"/run/checkpoints/step 1+.pt": b"state", "/run/empty": b""})
    storage = open_storage(s3_url)
    storage.point("run/checkpoints/latest.pt", "step 1+.pt")
    storage.point("run/checkpoints/best.pt", "latest.pt")
    names = ("step 1+.pt", "latest.pt", "best.pt")
    links = {f"checkpoints/{name}": b"state" for name in names}
    assert content(inputs.have(f"{s3_url}/run").path) == {**links, "empty": b""}
    one = inputs.have(f"{s3_url}/run/checkpoints/latest.pt").path
    assert one.read_bytes() == b"state"
    store.delete(f"{prefix}/run/checkpoints/step 1+.pt", {})
    with pytest.raises(InputError, match=r"has the link '.*', which leads nowhere"):
        inputs.have(f"{s3_url}/run")


def test_large_objects_come_in_parallel_ranges_and_their_progress_is_told(
    inputs: Inputs, store: Bucket, s3_url: str, tmp_path: Path
) -> None:
    bodies = {f"/{number}": BLOB * 6 + bytes([number]) for number in range(2)}  # 18 MiB
    put(store, s3_url, bodies)
    told: list[tuple[int, int]] = []
    found = inputs.have(s3_url, on_progress=lambda done, total: told.append((done, total)))
    assert content(found.path) == {path[1:]: body for path, body in bodies.items()}
    assert told[-1] == (found.bytes, found.bytes)
    source, come = open_source(f"{s3_url}/1", Settings()), []
    [item] = source.list(lambda size=0: None).items
    source.fetch(item, tmp_path / "one", lambda size=0: come.append(size))
    assert sum(come) == len(bodies["/1"])
    assert len(come) > 18


def test_an_object_is_a_file_unless_it_has_others_below_it(
    inputs: Inputs, store: Bucket, s3_url: str
) -> None:
    put(store, s3_url, {"/data.csv": b"file"})
    found = inputs.have(f"{s3_url}/data.csv")
    assert (found.path.name, found.path.read_bytes(), found.files) == ("data.csv", b"file", 1)
    with pytest.raises(InputError, match="there is no file"):
        inputs.have(f"{s3_url}/data.csv/")
    with pytest.raises(InputError, match="there is no file"):
        inputs.have(f"{s3_url}/data")


@only_moto  # a folder of SeaweedFS is no object
def test_a_prefix_with_objects_wins_over_the_object_of_its_name(
    inputs: Inputs, store: Bucket, s3_url: str
) -> None:
    put(store, s3_url, {"/data": b"file", "/data/": b""})
    assert inputs.have(f"{s3_url}/data").path.read_bytes() == b"file", "a marker is nothing"
    put(store, s3_url, {"/data/a": b"below"})
    assert content(inputs.have(f"{s3_url}/data").path) == {"a": b"below"}
    with pytest.raises(InputError, match="'data' both as a file and as a folder"):
        inputs.have(s3_url)


@only_moto
def test_an_object_whose_name_leads_out_is_refused(
    inputs: Inputs, store: Bucket, s3_url: str
) -> None:
    put(store, s3_url, {"/a": b"", "/../../../out": b"out"})
    with pytest.raises(InputError, match=r"'\.\./\.\./\.\./out', which is no path within"):
        inputs.have(s3_url)
    assert inputs.left() == []


def test_what_is_not_there_is_the_fault_of_the_job(inputs: Inputs, s3_url: str) -> None:
    with pytest.raises(InputError, match=f"there is no file at {s3_url}"):
        inputs.have(s3_url)
    with pytest.raises(InputError, match="there is no bucket 'nowhere' at http"):
        inputs.have("s3://nowhere/data")


@pytest.mark.parametrize("size", [10, 18 * MB], ids=["small", "large"])
def test_an_object_that_is_replaced_or_removed_before_it_is_fetched_is_not_taken(
    store: Bucket, s3_url: str, tmp_path: Path, size: int
) -> None:
    put(store, s3_url, {"/a": b"x" * size, "/b": b"x" * size})
    source, check = open_source(s3_url, Settings()), lambda size=0: None
    replaced, removed = source.list(check).items
    put(store, s3_url, {"/a": b"y" * size})
    store.delete(s3_url.removeprefix(f"s3://{BUCKET}/") + "/b", {})
    for item in (replaced, removed):
        with pytest.raises(InputChangedError, match=f"'{item.path}' of {s3_url} changed while"):
            source.fetch(item, tmp_path / "target", check)
        assert not (tmp_path / "target").exists()


def test_an_object_that_is_replaced_while_it_is_fetched_is_fetched_again(
    inputs: Inputs, store: Bucket, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, s3_url, {"/a": b"old"})
    waiting = [b"newer"]

    def replace(**_: Any) -> None:
        while waiting:
            put(store, s3_url, {"/a": waiting.pop()})

    on_requests(monkeypatch, "before-send.s3.GetObject", replace)
    assert content(inputs.have(s3_url).path) == {"a": b"newer"}


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [(403, "AccessDenied", InputError, "may not read s3://.* need s3:ListBucket and s3:GetObject"),
     (403, "InvalidObjectState", InputError, "'a' of s3://.* is archived"),
     (403, "InvalidAccessKeyId", StorageError, "does not accept the credentials"),
     (503, "SlowDown", StorageError, "s3://.* failed")],
)  # fmt: skip
@only_moto
def test_who_is_to_blame_for_an_object_that_is_not_given(
    inputs: Inputs, store: Bucket, s3_url: str, monkeypatch: pytest.MonkeyPatch,
    status: int, code: str, kind: type[Exception], words: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    put(store, s3_url, {"/a": b"data"})
    on_requests(monkeypatch, "before-send.s3.GetObject", refusing(status, code))
    with pytest.raises(kind, match=words):
        inputs.have(s3_url)
    assert inputs.left() == []


@only_moto
def test_an_object_can_be_fetched_without_the_right_to_list(
    inputs: Inputs, store: Bucket, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, s3_url, {"/a": b"data"})
    on_requests(monkeypatch, "before-send.s3.ListObjectsV2", refusing(403, "AccessDenied"))
    assert inputs.have(f"{s3_url}/a").path.read_bytes() == b"data"
    for url in (s3_url, f"{s3_url}/"):
        with pytest.raises(InputError, match="may not read"):
            inputs.have(url)


def test_a_presigned_url_is_an_input_too(inputs: Inputs, store: Bucket, s3_url: str) -> None:
    put(store, s3_url, {"/a": b"data"})
    url = store.presign(s3_url.removeprefix(f"s3://{BUCKET}/") + "/a", 60)
    assert url is not None
    assert inputs.have(url).path.read_bytes() == b"data"


def test_a_store_that_is_gone_is_an_outage(
    inputs: Inputs, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("SPECTRAIN_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match=f"{s3_url}: cannot reach the object store"):
        inputs.have(s3_url)
