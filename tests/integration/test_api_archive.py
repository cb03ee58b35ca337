"""The HTTP call for the files of a run as one archive."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from api.server.files.zip_stream import zip_of
from jobs.settings import Settings
from monitoring.storage.base import StoredFile
from monitoring.storage.moments import Entry, Moment, encode
from monitoring.storage.open import open_storage
from tests.integration.http_calls import GOOD, UNKNOWN, MakeApp, problem


def archive(http: FlaskClient, job_id: str, prefix: str | None = None) -> zipfile.ZipFile:
    query = {} if prefix is None else {"prefix": prefix}
    answer = http.get(f"/v1/jobs/{job_id}/artifacts.zip", query_string=query)
    assert (answer.status_code, answer.content_type) == (200, "application/zip")
    assert answer.headers["Content-Disposition"] == f"attachment; filename={job_id}.zip"
    opened = zipfile.ZipFile(io.BytesIO(answer.data))
    assert opened.testzip() is None
    return opened


def test_the_files_of_a_run_are_one_archive(http: FlaskClient, job_id: str, run: Path) -> None:
    (run / "empty").touch()
    (run / "a ∿.bin").write_bytes(os.urandom(9_000_000))
    (run / ".fence").write_text("1")
    os.utime(run / "results.json", (1e9, 1e9))
    found = archive(http, job_id)
    paths = ["a ∿.bin", "empty", "logs/metrics.jsonl", "logs/output.log", "results.json"]
    assert found.namelist() == paths
    for entry in found.infolist():
        assert found.read(entry) == (run / entry.filename).read_bytes()
        assert entry.compress_type == zipfile.ZIP_STORED
    assert found.getinfo("results.json").date_time[0] == 2001
    assert archive(http, job_id, "logs/").namelist() == paths[2:4]
    assert archive(http, job_id, "nothing").namelist() == []
    problem(http.get(f"/v1/jobs/{UNKNOWN}/artifacts.zip"), 404)


def test_other_programs_unpack_it(
    http: FlaskClient, job_id: str, run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.zip"
    file.write_bytes(http.get(f"/v1/jobs/{job_id}/artifacts.zip").data)
    script = "import shutil, sys; shutil.unpack_archive(sys.argv[1], sys.argv[2])"
    subprocess.run(["python3", "-c", script, file, tmp_path / "there"], check=True)
    assert (tmp_path / "there/logs/output.log").read_bytes() == (
        run / "logs/output.log"
    ).read_bytes()


def test_links_are_links_and_those_that_lead_out_are_left_out(
    http: FlaskClient, job_id: str, run: Path
) -> None:
    (run / "work").mkdir()
    (run / "work/a.ckpt").write_text("x")
    entries = {
        "work": Entry("directory", mode=0o755),
        "work/a.ckpt": Entry("file", 1, 0o644, content="1-a"),
        "work/last.ckpt": Entry("link", target="a.ckpt"),
        "work/up": Entry("link", target="../work"),
        "work/out": Entry("link", target="../../etc"),
        "etc": Entry("link", target="/etc"),
    }
    (run / ".moments").mkdir()
    (run / ".moments/000001-000001.json").write_bytes(encode(Moment(1, 1, 0.0, entries)))
    found = archive(http, job_id, "work")
    links = {
        entry.filename: found.read(entry).decode()
        for entry in found.infolist()
        if stat.S_ISLNK(entry.external_attr >> 16)
    }
    assert links == {"work/last.ckpt": "a.ckpt", "work/up": "../work"}
    assert "etc" not in archive(http, job_id).namelist()


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_files_that_change_or_go_while_it_is_made_leave_it_whole(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = tmp_path.as_uri() if kind == "file" else request.getfixturevalue("s3_url")
    storage = open_storage(url)
    for name in ("a-grows", "b-goes", "c-is-cut", "d-stays"):
        storage.append(f"run/{name}", 0, name.encode())
    files = {file.key.removeprefix("run/"): file for file in storage.list("run")}
    made = zip_of(storage, files, {})
    data = next(made)
    storage.append("run/a-grows", 7, b"more")
    storage.delete("run/b-goes")
    storage.append("run/c-is-cut", 3, b"")
    data += b"".join(made)
    opened = zipfile.ZipFile(io.BytesIO(data))
    assert opened.testzip() is None
    contents = {name: opened.read(name) for name in opened.namelist()}
    assert contents == {"a-grows": b"a-grows", "c-is-cut": b"c-i", "d-stays": b"d-stays"}


def test_a_file_beyond_32_bits_is_streamed_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where `zipfile` begins to write sizes of 64 bits: 2 GiB, but here much less.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 20)
    (tmp_path / "run").mkdir()
    size = (256 << 20) + 5
    for name in ("large", "small"):
        with (tmp_path / "run" / name).open("wb") as file:
            file.truncate(size if name == "large" else 3)  # holes, which take no disk
    storage = open_storage(tmp_path.as_uri())
    files = {file.key.removeprefix("run/"): file for file in storage.list("run")}
    tracemalloc.start()
    end, length = b"", 0
    for block in zip_of(storage, files, {}):
        length += len(block)
        end = (end + block)[-4096:]
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()
    # What a reader of the end of the file sees: the directory, beyond what 32 bits can tell.
    assert length > size
    assert end.rfind(b"PK\x06\x06") > 0
    directory = end[end.index(b"PK\x01\x02") :]
    assert size.to_bytes(8, "little") in directory[: directory.index(b"PK\x06\x06")]


def test_an_archive_comes_from_an_object_store(
    settings: Settings, s3_url: str, make_app: MakeApp
) -> None:
    http = make_app(settings.model_copy(update={"storage_url": s3_url})).test_client()
    job_id = str(http.post("/v1/jobs", json=GOOD).get_json()["id"])
    storage, data = open_storage(s3_url), os.urandom(6_000_000)
    for number in range(12):
        storage.append(f"{job_id}/logs/{number}", 0, str(number).encode())
    storage.append(f"{job_id}/model.bin", 0, data)
    found = archive(http, job_id)
    assert len(found.namelist()) == 13
    assert found.read("model.bin") == data
    assert found.read("logs/7") == b"7"


def test_years_that_an_archive_cannot_tell_are_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/a").write_text("a")
    files = {"a": StoredFile("run/a", 1, 0.0), "b": StoredFile("run/a", 1, 9e9)}
    data = b"".join(zip_of(open_storage(tmp_path.as_uri()), files, {}))
    opened = zipfile.ZipFile(io.BytesIO(data))
    assert [entry.date_time[0] for entry in opened.infolist()] == [1980, 2107]
