"""Workspaces over HTTP: sent once, in parts, verified, and needed before a job that names one."""

from __future__ import annotations

import hashlib
import io
import os

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.schemas import NEXT_OFFSET
from jobs.settings import DEFAULT_BYTES as DEFAULT_OF_SETTINGS
from jobs.settings import Settings
from monitoring.storage.base import Storage
from monitoring.storage.open import open_storage
from tests.integration.http_calls import MakeApp, problem
from workspaces.layout import DEFAULT_BYTES, archive_key, partial_key

SMALL = b"an archive"
LARGE = os.urandom(20 << 20)
PART = 8 << 20


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def storage(service: Settings) -> Storage:
    return open_storage(service.storage_url)


@pytest.fixture
def http(service: Settings, make_app: MakeApp) -> FlaskClient:
    return make_app(service).test_client()


def put(http: FlaskClient, data: bytes, name: str = "", **headers: str) -> TestResponse:
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    url = f"/v1/workspaces/{name or sha256(data)}"
    return http.put(url, data=data, headers=named, content_type="application/gzip")


def put_part(http: FlaskClient, start: int, end: int, data: bytes = LARGE) -> TestResponse:
    of = f"bytes {start}-{end - 1}/{len(data)}"
    return put(http, data[start:end], sha256(data), Content_Range=of)


def ask(http: FlaskClient, data: bytes) -> tuple[int, int]:
    answer = http.head(f"/v1/workspaces/{sha256(data)}")
    return answer.status_code, int(answer.headers[NEXT_OFFSET])


def job(data: bytes) -> dict[str, object]:
    workspace = {"sha256": sha256(data), "files": 1, "bytes": 1}
    return {"name": "a", "command": ["python", "t.py"], "workspace": workspace}


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_what_was_sent_is_there(http: FlaskClient, storage: Storage, data: bytes) -> None:
    assert ask(http, data) == (404, 0)
    answer = put(http, data)
    assert answer.get_json() == {"sha256": sha256(data), "size": len(data), "complete": True}
    assert ask(http, data) == (200, len(data))
    assert storage.read(archive_key(sha256(data))) == data
    assert storage.stat(partial_key(sha256(data))) is None


def test_it_goes_on_where_it_was_interrupted(http: FlaskClient, storage: Storage) -> None:
    answer = put_part(http, 0, PART)
    assert answer.get_json()["complete"] is False
    assert ask(http, LARGE) == (404, PART)
    answer = put_part(http, 2 * PART, len(LARGE))
    assert problem(answer, 409)["detail"].startswith(f"The service has {PART} bytes")
    assert answer.headers[NEXT_OFFSET] == str(PART)
    assert put_part(http, PART, 2 * PART).headers[NEXT_OFFSET] == str(2 * PART)
    assert put_part(http, 2 * PART, len(LARGE)).get_json()["complete"] is True
    assert storage.read(archive_key(sha256(LARGE))) == LARGE


def test_two_senders_of_one_archive_do_no_harm(http: FlaskClient, storage: Storage) -> None:
    put_part(http, 0, PART)
    put_part(http, PART, 2 * PART)
    put_part(http, 0, PART)  # another one begins anew
    assert put_part(http, 2 * PART, len(LARGE)).headers[NEXT_OFFSET] == str(PART)
    put_part(http, PART, 2 * PART)
    put_part(http, 2 * PART, len(LARGE))
    assert put_part(http, PART, 2 * PART).get_json()["complete"] is True
    assert storage.read(archive_key(sha256(LARGE))) == LARGE


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
def test_other_bytes_than_were_named_are_refused_and_forgotten(
    http: FlaskClient, storage: Storage, data: bytes
) -> None:
    name = sha256(b"another")
    answer = put(http, data, name)
    assert f"received is {sha256(data)}, not {name}" in problem(answer, 422)["detail"]
    assert http.head(f"/v1/workspaces/{name}").headers[NEXT_OFFSET] == "0"
    assert not storage.list("workspaces")


def test_parts_that_do_not_fit_together_are_refused(http: FlaskClient, storage: Storage) -> None:
    put_part(http, 0, PART)
    wrong = bytearray(LARGE)
    wrong[PART] ^= 1
    rest = bytes(wrong)[PART:]
    of = f"bytes {PART}-{len(LARGE) - 1}/{len(LARGE)}"
    problem(put(http, rest, sha256(LARGE), Content_Range=of), 422)
    assert not storage.list("workspaces")


def test_it_is_stored_once(http: FlaskClient, storage: Storage) -> None:
    put(http, SMALL)
    before = storage.stat(archive_key(sha256(SMALL)))
    assert put(http, SMALL).get_json()["complete"] is True
    assert put(http, b"nonsense", sha256(SMALL)).get_json()["complete"] is True
    assert storage.stat(archive_key(sha256(SMALL))) == before


@pytest.mark.parametrize(
    "given",
    ["nonsense", "bytes 0-9", "bytes 9-0/10", "bytes 0-10/10", "bytes 0-8/10", "bytes -1-9/10"],
)
def test_a_range_that_is_none_is_refused(http: FlaskClient, given: str) -> None:
    assert "Content-Range" in problem(put(http, SMALL, Content_Range=given), 400)["detail"]


@pytest.mark.parametrize("name", ["x", "A" * 64, "0" * 63, "0" * 65, "../" + "0" * 61])
def test_a_name_that_is_no_hash_is_not_found(http: FlaskClient, name: str) -> None:
    problem(put(http, SMALL, name), 404)


def test_a_job_whose_workspace_was_not_sent_is_refused(http: FlaskClient) -> None:
    (error,) = problem(http.post("/v1/jobs", json=job(SMALL)), 422)["errors"]
    assert error["field"] == "workspace.sha256"
    assert error["allowed"].startswith("an archive that the service has: send it first")
    put(http, SMALL)
    answer = http.post("/v1/jobs", json=job(SMALL))
    assert answer.status_code == 201
    assert answer.get_json()["spec"]["workspace"] == job(SMALL)["workspace"]


# -- what does not depend on the storage ----------------------------------------------------------


@pytest.fixture
def limited(settings: Settings, make_app: MakeApp) -> FlaskClient:
    return make_app(settings.model_copy(update={"workspace_bytes": 1000})).test_client()


def test_an_archive_that_is_too_large_is_refused_before_it_is_read(
    limited: FlaskClient, settings: Settings
) -> None:
    words = "1.0 kB at most; SPECTRAIN_WORKSPACE_BYTES of the API"
    assert words in problem(put(limited, LARGE[: 2 << 20]), 413)["detail"]
    part = put(limited, SMALL, Content_Range="bytes 0-9/2000000")
    assert words in problem(part, 413)["detail"]

    class Endless(io.RawIOBase):
        read_bytes = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            self.read_bytes += len(buffer)
            return len(buffer)

    endless = Endless()
    answer = limited.put(
        f"/v1/workspaces/{sha256(SMALL)}",
        # A chunked body, whose length nobody knows.
        environ_overrides={"wsgi.input": endless, "wsgi.input_terminated": True},
    )
    assert words in problem(answer, 413)["detail"]
    assert endless.read_bytes < 4 << 20


def test_a_small_body_of_another_call_has_its_own_limit(limited: FlaskClient) -> None:
    answer = limited.post("/v1/jobs", data=b" " * (2 << 20), content_type="application/json")
    problem(answer, 413)


def test_nobody_sends_without_a_token(settings: Settings, make_app: MakeApp) -> None:
    guarded = make_app(
        settings.model_copy(update={"api_tokens": "one-of-sixteen-or-more"})
    ).test_client()
    problem(put(guarded, SMALL), 401)
    assert guarded.head(f"/v1/workspaces/{sha256(SMALL)}").status_code == 401
    assert put(guarded, SMALL, Authorization="Bearer one-of-sixteen-or-more").status_code == 200


@pytest.mark.parametrize("workspace", [".", {"path": "."}, {"path": ".", "exclude": ["x"]}])
def test_a_path_is_answered_with_who_sends_it(
    settings: Settings, make_app: MakeApp, workspace: object
) -> None:
    http = make_app(settings).test_client()
    body = {"name": "a", "command": ["true"], "workspace": workspace}
    (error,) = problem(http.post("/v1/jobs", json=body), 422)["errors"]
    assert error["field"] == "workspace"
    assert "`spectrain submit` and the Python client make it from `path`" in error["allowed"]


def test_the_built_in_workload_brings_no_files(settings: Settings, make_app: MakeApp) -> None:
    body = {"name": "a", "train": {}, "workspace": job(SMALL)["workspace"]}
    (error,) = problem(make_app(settings).test_client().post("/v1/jobs", json=body), 422)["errors"]
    assert "workspace is for a program of your own" in error["allowed"]


def test_all_read_the_same_limit() -> None:
    assert DEFAULT_OF_SETTINGS == DEFAULT_BYTES
