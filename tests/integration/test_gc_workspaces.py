"""Which workspaces `spectrain gc` removes, on a volume and in an object store."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient

from api.cli.main import cli
from api.ops import old_workspaces
from api.ops.old_workspaces import unneeded_workspaces
from api.server.files.receiving import Receiving
from jobs.model.record import Job
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from monitoring.storage.base import Storage
from monitoring.storage.open import open_storage
from tests.integration.http_calls import MakeApp
from workspaces.layout import archive_key, partial_key, use_key

LATER = time.time() + 3600
CODE = b"an archive"
NAME = hashlib.sha256(CODE).hexdigest()


@pytest.fixture
def storage(service: Settings) -> Storage:
    return open_storage(service.storage_url)


@pytest.fixture
def http(service: Settings, make_app: MakeApp) -> FlaskClient:
    return make_app(service).test_client()


@pytest.fixture
def at_any_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(old_workspaces, "_LEAST_AGE", -3600.0)


def send(storage: Storage) -> None:
    Receiving(storage, NAME).take(io.BytesIO(CODE), 0, len(CODE))


def submit(http: FlaskClient) -> Job:
    workspace = {"sha256": NAME, "files": 1, "bytes": 10}
    body = {"name": "a", "command": ["true"], "workspace": workspace}
    return Job.model_validate(
        {k: v for k, v in http.post("/v1/jobs", json=body).get_json().items()
         if k in Job.model_fields}
    )  # fmt: skip


def run_gc(*options: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["gc", "--older-than", "0", *options])
    return done.exit_code, done.output


@pytest.mark.usefixtures("at_any_age")
def test_a_workspace_goes_when_no_job_names_it(
    http: FlaskClient, storage: Storage, store: JobStore
) -> None:
    send(storage)
    job = submit(http)
    assert not list(unneeded_workspaces(store, storage, LATER))
    assert run_gc()[0] == 0
    assert storage.read(archive_key(NAME)) == CODE

    http.post(f"/v1/jobs/{job.id}/cancel")
    assert run_gc() == (0, "0 B removed, in 0 runs.\n"), "a retry would need it"
    http.delete(f"/v1/jobs/{job.id}?files=true")
    code, said = run_gc("--dry-run")
    assert code == 0
    assert "no job names it" in said
    assert storage.stat(archive_key(NAME)) is not None
    run_gc()
    assert not storage.list("workspaces")


def test_what_was_just_sent_or_asked_for_stays(
    http: FlaskClient, storage: Storage, store: JobStore
) -> None:
    send(storage)
    run_gc()
    assert storage.stat(archive_key(NAME)) is not None
    if (path := storage.local_path(archive_key(NAME))) is None:
        return  # nobody can make an object of a store older
    os.utime(path, (1, 1))
    assert len(list(unneeded_workspaces(store, storage, LATER))) == 1
    http.head(f"/v1/workspaces/{NAME}")  # somebody will submit a job now
    assert not list(unneeded_workspaces(store, storage, LATER))
    os.utime(str(storage.local_path(use_key(NAME))), (1, 1))
    run_gc()
    assert not storage.list("workspaces")


@pytest.mark.usefixtures("at_any_age")
def test_an_upload_that_nobody_continues_goes(storage: Storage, store: JobStore) -> None:
    storage.append(partial_key(NAME), 0, b"half")
    (found,) = unneeded_workspaces(store, storage, LATER)
    assert (found.why, found.files) == ("an upload that was not completed", (partial_key(NAME),))
    run_gc()
    assert not storage.list("workspaces")


@pytest.mark.usefixtures("at_any_age")
def test_none_goes_while_there_are_runs_that_redis_has_lost(
    http: FlaskClient, storage: Storage, store: JobStore, tmp_path: Path
) -> None:
    send(storage)
    job = submit(http)
    spec = tmp_path / "job.json"
    spec.write_text(job.model_dump_json(include={"id", "spec", "submitted_at"}))
    storage.put(f"{job.id}/job.json", spec)
    store.redis.flushall()
    code, said = run_gc()
    assert code == 1
    assert "spectrain reindex" in said
    assert storage.read(archive_key(NAME)) == CODE


@pytest.mark.usefixtures("at_any_age")
def test_a_record_of_another_version_keeps_its_workspace(
    http: FlaskClient, storage: Storage, store: JobStore
) -> None:
    send(storage)
    job = submit(http)
    text = job.spec.model_copy(update={"name": "b"}).model_dump_json()
    later = text.replace('"preemptible"', '"of_a_later_version":1,"preemptible"')
    store.redis.hset(store.keys.job(job.id), "spec", later)
    assert not list(unneeded_workspaces(store, storage, LATER))


def test_no_reader_takes_the_folder_for_a_run(http: FlaskClient, storage: Storage) -> None:
    send(storage)
    for command in (["reindex"], ["doctor"]):
        assert "workspaces" not in CliRunner().invoke(cli, command).output
    assert http.get("/v1/jobs").get_json()["jobs"] == []
    assert http.get("/v1/jobs/workspaces/artifacts").status_code == 404
