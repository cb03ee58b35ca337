"""What only an object store does: parts, conditions, URLs, and what goes wrong on the way to it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.awsrequest import AWSResponse

from api.local.redis_server import free_port
from monitoring.checkpoints import commit
from monitoring.storage.base import Fence, OvertakenError, StorageError
from monitoring.storage.open import open_storage
from monitoring.storage.s3 import download as s3_download
from monitoring.storage.s3.storage import S3Storage
from worker.files.publish import Publisher
from worker.files.restore import restore
from worker.files.scratch import Scratch

FIRST, SECOND = Fence("run", 1), Fence("run", 2)
MB = 1 << 20


def opened(url: str) -> S3Storage:
    storage = open_storage(url)
    assert isinstance(storage, S3Storage)
    return storage


@pytest.fixture(params=["moto_server", "seaweedfs_server"])
def s3_server(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def storage(s3_url: str) -> S3Storage:
    return opened(s3_url)


def file_of(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def on_request(storage: S3Storage, operation: str, action: Callable[..., Any]) -> None:
    """Calls `action` before the next request of that kind leaves, once."""
    waiting = [action]

    def once(**arguments: Any) -> Any:
        return waiting.pop()(**arguments) if waiting else None

    on_requests(storage, f"before-send.s3.{operation}", once)


def on_requests(storage: S3Storage, event: str, action: Callable[..., Any]) -> None:
    """Calls `action` on each such event."""
    for client in (storage._bucket._client, storage._bucket._parts_client):
        client.meta.events.register(event, action)


def uploads(storage: S3Storage) -> list[Any]:
    answer = storage._bucket._client.list_multipart_uploads(
        Bucket=storage._bucket.bucket, Prefix=storage._prefix
    )
    return list(answer.get("Uploads", []))


# -- large files ------------------------------------------------------------------------------

LARGE = """
import json, re, sys
from pathlib import Path
from monitoring.storage.base import Fence
from monitoring.storage.open import open_storage
storage, source, target = open_storage(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
fence = Fence("run", 1)
storage.seize(fence)
def peak():  # of this program alone: ru_maxrss begins with that of the process which started it
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
start = peak()
storage.put("run/large", source, fence)
put = peak()
storage.get("run/large", target)
print(json.dumps({"put": put - start, "get": peak() - put}))
"""


def test_a_large_file_goes_in_parts_and_comes_back_in_bounded_memory(
    s3_url: str, storage: S3Storage, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    block = bytes(range(256)) * 4096
    with source.open("wb") as file:
        for number in range(100):
            file.write(number.to_bytes(4, "big") + block[4:])
    command = [sys.executable, "-c", LARGE, s3_url, str(source), str(target)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    kilobytes = json.loads(answer.stdout)
    assert commit.checksum(target, "crc32") == commit.checksum(source, "crc32")
    assert max(kilobytes.values()) < 64 * 1024, kilobytes
    _, head = storage._find("run/large")
    assert head["ETag"].strip('"').endswith("-13"), "thirteen parts of 8 MiB"


def test_a_large_file_that_is_replaced_is_sent_once(storage: S3Storage, tmp_path: Path) -> None:
    source = file_of(tmp_path / "a", b"x" * 9 * MB)
    storage.put("run/a", source, FIRST)
    parts: list[Any] = []
    on_requests(
        storage, "before-send.s3.UploadPart", lambda request, **_: parts.append(request.url)
    )
    storage.put("run/a", source, FIRST)
    assert len(parts) == 2


def test_an_upload_that_fails_leaves_what_was_there_and_no_part(
    storage: S3Storage, tmp_path: Path
) -> None:
    storage.put("run/a", file_of(tmp_path / "a", b"old"), FIRST)

    def refuse(request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, 403, {}, _Raw(b""))

    on_request(storage, "UploadPart", refuse)
    with pytest.raises(StorageError, match="may not do this in bucket 'runs'"):
        storage.put("run/a", file_of(tmp_path / "b", b"x" * 20 * MB), FIRST)
    assert storage.read("run/a") == b"old"
    assert uploads(storage) == []


class _Raw:
    """The body of an answer that never came over a wire."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._body


# -- fencing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_a_write_that_was_under_way_never_replaces_what_a_newer_attempt_wrote(
    s3_url: str, storage: S3Storage, tmp_path: Path, there: bool
) -> None:
    """The newer attempt takes over after the older one has looked at the fence."""
    if there:
        storage.put("run/a", file_of(tmp_path / "a", b"old"), FIRST)
    newer = opened(s3_url)
    storage.seize(FIRST)

    def overtake(**_: Any) -> None:
        newer.seize(SECOND)
        newer.put("run/a", file_of(tmp_path / "b", b"newer"), SECOND)

    on_request(storage, "PutObject", overtake)
    with pytest.raises(OvertakenError):
        storage.put("run/a", file_of(tmp_path / "c", b"late"), FIRST)
    assert newer.read("run/a") == b"newer"


def test_a_deletion_that_was_under_way_never_removes_what_a_newer_attempt_wrote(
    s3_url: str, storage: S3Storage, tmp_path: Path
) -> None:
    storage.put("run/a", file_of(tmp_path / "a", b"old"), FIRST)
    newer = opened(s3_url)

    def overtake(**_: Any) -> None:
        newer.seize(SECOND)
        newer.put("run/a", file_of(tmp_path / "b", b"newer"), SECOND)

    on_request(storage, "DeleteObject", overtake)
    with pytest.raises(OvertakenError):
        storage.delete("run/a", FIRST)
    assert newer.read("run/a") == b"newer"


def test_an_attempt_deletes_what_it_wrote_by_another_hand(
    s3_url: str, storage: S3Storage, tmp_path: Path
) -> None:
    storage.put("run/a", file_of(tmp_path / "a", b"old"), FIRST)
    opened(s3_url).put("run/a", file_of(tmp_path / "b", b"new"), FIRST)
    storage.delete("run/a", FIRST)
    assert storage.stat("run/a") is None


# A newer attempt ends the uploads of older ones; where it cannot, they end themselves.
OVERTAKE: list[Callable[[S3Storage], None]] = [
    lambda newer: newer.seize(SECOND),
    lambda newer: newer.append("run/other", 0, b"x", SECOND),
]


@pytest.mark.parametrize("overtake", OVERTAKE)
def test_an_attempt_overtaken_in_the_middle_of_an_upload_leaves_nothing(
    s3_url: str, storage: S3Storage, tmp_path: Path, overtake: Callable[[S3Storage], None]
) -> None:
    newer = opened(s3_url)
    storage.seize(FIRST)
    on_request(storage, "UploadPart", lambda **_: overtake(newer))
    with pytest.raises(OvertakenError):
        storage.put("run/a", file_of(tmp_path / "a", b"x" * 20 * MB), FIRST)
    assert newer.stat("run/a") is None
    assert uploads(newer) == []


@pytest.mark.parametrize("overtake", OVERTAKE)
def test_an_attempt_overtaken_in_the_middle_of_an_append_adds_nothing(
    s3_url: str, storage: S3Storage, overtake: Callable[[S3Storage], None]
) -> None:
    storage.append("run/log", 0, b"x" * 6 * MB, FIRST)
    newer = opened(s3_url)
    on_request(storage, "UploadPartCopy", lambda **_: overtake(newer))
    with pytest.raises(OvertakenError):
        storage.append("run/log", 6 * MB, b"late", FIRST)
    found = newer.stat("run/log")
    assert found is not None
    assert found.size == 6 * MB
    assert uploads(newer) == []


def test_the_newest_of_several_attempts_that_want_a_run_at_once_has_it(
    s3_url: str, storage: S3Storage
) -> None:
    newer = opened(s3_url)
    on_request(storage, "PutObject", lambda **_: newer.seize(Fence("run", 3)))
    with pytest.raises(OvertakenError, match="attempt 2 of run has been overtaken by attempt 3"):
        storage.seize(SECOND)


def test_what_a_killed_upload_left_is_removed_when_the_next_attempt_starts(
    storage: S3Storage,
) -> None:
    name = f"{storage._prefix}run/a"
    storage._bucket._client.create_multipart_upload(Bucket=storage._bucket.bucket, Key=name)
    assert len(uploads(storage)) == 1
    storage.seize(SECOND)
    assert uploads(storage) == []


def test_uploads_that_cannot_be_listed_at_this_moment_are_not_forgotten(storage: S3Storage) -> None:
    def fail(status: int, request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, status, {}, _Raw(b"<Error><Code>Any</Code></Error>"))

    listing = "before-send.s3.ListMultipartUploads"
    events = storage._bucket._client.meta.events
    for status, again in ((503, True), (403, False)):
        handler = partial(fail, status)
        events.register(listing, handler)
        with pytest.raises(StorageError) if again else contextlib.nullcontext():
            storage.seize(FIRST)
        events.unregister(listing, handler)


def test_a_store_without_conditional_writes_is_fenced_all_the_same(
    s3_url: str, storage: S3Storage, tmp_path: Path
) -> None:
    body = b"<Error><Code>NotImplemented</Code></Error>"

    def refuse(request: Any, **_: Any) -> AWSResponse | None:
        if {"If-Match", "If-None-Match"} & set(request.headers):
            return AWSResponse(request.url, 501, {}, _Raw(body))
        return None

    on_requests(storage, "before-send.s3", refuse)
    source = file_of(tmp_path / "a", b"data")
    storage.put("run/a", source, FIRST)
    storage.append("run/log", 0, b"one", FIRST)
    storage.append("run/log", 3, b"two", FIRST)
    assert storage.read("run/log") == b"onetwo"
    storage.delete("run/a", FIRST)
    assert storage.stat("run/a") is None
    opened(s3_url).seize(SECOND)
    with pytest.raises(OvertakenError):
        storage.put("run/a", source, FIRST)


# -- links and URLs ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["../other/secret", "a/b", "", "..", "."])
def test_a_link_leads_to_a_neighbour_only(storage: S3Storage, target: str) -> None:
    with pytest.raises(StorageError, match="a link leads to a file beside it"):
        storage.point("run/latest", target)


def test_a_link_to_itself_leads_nowhere(storage: S3Storage) -> None:
    storage.point("run/latest", "latest")
    with pytest.raises(StorageError, match="leads nowhere"):
        storage.read("run/latest")


def test_a_presigned_url_gives_the_file_to_whoever_has_it(
    storage: S3Storage, tmp_path: Path
) -> None:
    storage.put("run/a b ∿", file_of(tmp_path / "a", b"data"))
    storage.point("run/latest", "a b ∿")
    for key in ("run/a b ∿", "run/latest"):
        url = storage.presign(key, 60)
        assert url is not None
        assert "X-Amz-Expires=60" in url
        assert httpx.get(url).content == b"data"
        assert httpx.get(url, headers={"Range": "bytes=1-2"}).content == b"at"
    with pytest.raises(FileNotFoundError):
        storage.presign("run/none", 60)


# -- what goes wrong --------------------------------------------------------------------------


def test_a_bucket_that_does_not_exist_is_named(s3_url: str, s3_server: str) -> None:
    storage = opened("s3://nowhere/experiments")
    words = f"there is no bucket 'nowhere' at {s3_server}: create it or change the storage URL"
    for ask in (
        lambda: storage.stat("run/a"),
        lambda: storage.list("run"),
        lambda: storage.read("run/a"),
        lambda: storage.seize(FIRST),
        lambda: storage.append("run/a", 0, b"x", FIRST),
        lambda: storage.delete_run("run"),
    ):
        with pytest.raises(StorageError, match=words):
            ask()


@pytest.mark.parametrize("s3_server", ["moto_server"], indirect=True)  # the other takes any
def test_wrong_credentials_are_said_to_be_wrong(storage: S3Storage, s3_server: str) -> None:
    httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"0").raise_for_status()
    try:
        for ask in (lambda: storage.stat("run/a"), lambda: storage.seize(FIRST)):
            with pytest.raises(StorageError, match="does not accept the credentials"):
                ask()
    finally:
        httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"inf").raise_for_status()


def test_missing_credentials_are_asked_for(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StorageError, match=r"there are no credentials .* set AWS_ACCESS"):
        opened(s3_url).stat("run/a")


def test_a_store_that_cannot_be_reached_is_named(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    address = f"http://127.0.0.1:{free_port()}"
    storage = open_storage(s3_url, address)
    with pytest.raises(StorageError, match=f"cannot reach the object store at {address}"):
        storage.stat("run/a")


@pytest.mark.parametrize("address", ["localhost", "http://"])
def test_an_address_that_is_none_is_refused(s3_url: str, address: str) -> None:
    with pytest.raises(StorageError, match="cannot open the object store"):
        open_storage(s3_url, address)


def test_a_request_that_fails_in_passing_is_tried_again(storage: S3Storage) -> None:
    def overloaded(request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, 503, {}, _Raw(b"<Error><Code>SlowDown</Code></Error>"))

    on_request(storage, "PutObject", overloaded)
    storage.append("run/log", 0, b"data", FIRST)
    assert storage.read("run/log") == b"data"


# -- a run ------------------------------------------------------------------------------------


class Attempt:
    """One attempt of the run `job` on this machine."""

    def __init__(self, url: str, tmp_path: Path, number: int) -> None:
        self.fence = Fence("job", number)
        self.storage = opened(url)
        self.scratch = Scratch(tmp_path / "scratch", "job", number)
        self.run = self.scratch.run
        self.storage.seize(self.fence)
        self._held = self.scratch.held()
        self._held.__enter__()
        self.restored = restore(self.storage, "job", self.run)
        self.publisher = Publisher(self.storage, self.scratch, self.fence, self.restored)

    def save(self, step: int, *, keep: int = 0) -> None:
        path = self.run.checkpoint(step)
        path.write_bytes(b"weights")
        record = commit.CommitRecord(
            step, 7, commit.checksum(path, "crc32"), self.fence.attempt, step, keep=keep
        )
        commit.write(path, record)
        self.run.latest_checkpoint.unlink(missing_ok=True)
        self.run.latest_checkpoint.symlink_to(path.name)

    def log(self, step: int) -> None:
        with self.run.metrics.open("a") as file:
            file.write(json.dumps({"step": step}) + "\n")


def test_the_next_attempt_goes_on_from_what_the_first_published(
    s3_url: str, tmp_path: Path
) -> None:
    first = Attempt(s3_url, tmp_path, 1)
    for step in (0, 10):
        first.log(step)
        first.save(step)
        first.publisher.add_line(f"step {step}")
        first.publisher.publish()
    commit.discard(first.run.checkpoint(0))
    first.publisher.publish()

    second = Attempt(s3_url, tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 10
    assert second.run.latest_checkpoint.readlink().name == "checkpoint_step_10.pt"
    second.log(20)
    second.publisher.add_line("step 20")
    second.publisher.publish()
    first.log(11)
    with pytest.raises(OvertakenError):
        first.publisher.publish()

    kept = opened(s3_url)
    assert kept.read("job/logs/metrics.jsonl") == b'{"step": 0}\n{"step": 10}\n{"step": 20}\n'
    assert kept.read("job/logs/output.log").count(b"--- step") == 3
    assert kept.links("job") == {"job/checkpoints/checkpoint_latest.pt": "checkpoint_step_10.pt"}
    assert [file.key for file in kept.list("job/checkpoints")] == [
        "job/checkpoints/checkpoint_step_10.pt", "job/checkpoints/checkpoint_step_10.pt.json",
    ]  # fmt: skip


def kept(storage: S3Storage) -> list[int]:
    """The steps whose checkpoints are in the store, with their records."""
    keys = {file.key for file in storage.list("job/checkpoints")}
    data = {key for key in keys if key.endswith(".pt")}
    assert {f"{key}.json" for key in data} == keys - data
    return sorted(int(key.rpartition("_")[2].removesuffix(".pt")) for key in data)


def test_an_attempt_fetches_the_newest_checkpoint_and_the_best_and_leaves_the_others(
    s3_url: str, tmp_path: Path
) -> None:
    first = Attempt(s3_url, tmp_path, 1)
    for step in (10, 20, 30, 40):
        first.save(step, keep=3)
    first.run.best_checkpoint.symlink_to("checkpoint_step_10.pt")
    first.publisher.publish()

    second = Attempt(s3_url, tmp_path, 2)
    assert sorted(path.name for path in second.run.checkpoints.iterdir()) == [
        "checkpoint_best.pt", "checkpoint_latest.pt", "checkpoint_step_10.pt",
        "checkpoint_step_10.pt.json", "checkpoint_step_40.pt", "checkpoint_step_40.pt.json",
    ]  # fmt: skip
    second.publisher.publish()
    assert kept(second.storage) == [10, 20, 30, 40]
    second.save(50, keep=3)
    second.publisher.publish()
    assert kept(second.storage) == [10, 30, 40, 50], "the three newest and the best, as on disk"
    second.save(30, keep=3)  # again: it is the attempt's own from now on
    second.save(60, keep=3)
    second.publisher.publish()
    assert kept(second.storage) == [10, 30, 40, 50, 60]


def test_all_checkpoints_are_fetched_where_nobody_knows_how_many_are_kept(
    s3_url: str, tmp_path: Path
) -> None:
    first = Attempt(s3_url, tmp_path, 1)
    for step in (10, 20):
        first.save(step)
    first.publisher.publish()
    second = Attempt(s3_url, tmp_path, 2)
    assert second.run.checkpoint(10).exists()


def test_a_damaged_checkpoint_in_the_store_is_set_aside_and_the_one_before_it_is_fetched(
    s3_url: str, tmp_path: Path
) -> None:
    first = Attempt(s3_url, tmp_path, 1)
    for step in (10, 20, 30):
        first.save(step, keep=3)
    first.publisher.publish()
    key = "job/checkpoints/checkpoint_step_30.pt"
    first.storage.put(key, file_of(tmp_path / "damaged", b"weighty"), first.fence)

    second = Attempt(s3_url, tmp_path, 2)
    assert second.restored.checkpoint is not None
    assert second.restored.checkpoint.step == 20
    assert second.run.latest_checkpoint.readlink().name == "checkpoint_step_20.pt"
    assert not second.run.checkpoint(10).exists()
    second.publisher.publish()
    second.publisher.publish()
    assert second.storage.read(f"{key}.corrupt") == b"weighty"
    assert second.storage.stat(key) is None
    third = Attempt(s3_url, tmp_path, 3)
    assert not list(third.run.checkpoints.glob("*.pt.corrupt")), "nobody needs it here"
    third.publisher.publish()
    assert third.storage.read(f"{key}.corrupt") == b"weighty"


def test_a_restore_ends_in_the_middle_of_a_large_checkpoint_when_nobody_wants_it_any_more(
    s3_url: str, storage: S3Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_download, "_RANGE", MB)
    monkeypatch.setattr(s3_download, "_THREADS", 2)
    first = Attempt(s3_url, tmp_path, 1)
    path = first.run.checkpoint(10)
    path.write_bytes(b"x" * 20 * MB)
    record = commit.CommitRecord(10, 20 * MB, commit.checksum(path, "crc32"), 1, 10)
    commit.write(path, record)
    first.publisher.publish()

    requests: list[str] = []
    on_requests(storage, "before-send.s3.GetObject",
                lambda request, **_: requests.append(request.headers.get("Range", "")))  # fmt: skip
    scratch = Scratch(tmp_path / "other", "job", 2)
    with scratch.held():
        unwanted = restore(storage, "job", scratch.run, wanted=lambda: len(requests) < 3)
        assert unwanted is None
        assert not list(scratch.run.checkpoints.glob("*.pt"))
    assert len(requests) <= 3 + 2, "none but those that were under way"


def test_an_upload_that_could_not_be_ended_is_ended_before_the_next(
    storage: S3Storage, tmp_path: Path
) -> None:
    source = file_of(tmp_path / "a", b"x" * 20 * MB)

    def refuse(request: Any, **_: Any) -> AWSResponse:
        return AWSResponse(request.url, 400, {}, _Raw(b"<Error><Code>Away</Code></Error>"))

    away = [True]
    for operation in ("UploadPart", "AbortMultipartUpload"):
        on_requests(storage, f"before-send.s3.{operation}",
                    lambda request, **_: refuse(request) if away else None)  # fmt: skip
    with pytest.raises(StorageError, match="Away"):
        storage.put("run/a", source, FIRST)
    assert len(uploads(storage)) == 1
    away.clear()
    storage.put("run/b", source, FIRST)
    assert uploads(storage) == []
