"""Who may use an object store, and where: credentials, region, addresses, certificates."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from api.local.redis_server import free_port
from monitoring.storage.base import Fence, StorageError
from monitoring.storage.open import open_storage
from monitoring.storage.s3.storage import S3Storage
from monitoring.storage.trial import try_out
from tests.integration.tls import make_certificate, tls_in_front_of

FENCE = Fence("run", 1)


def requests_of(storage: S3Storage) -> list[Any]:
    """The requests that leave from now on."""
    sent: list[Any] = []
    for client in (storage._bucket._client, storage._bucket._parts_client):
        client.meta.events.register("before-send.s3", lambda request, **_: sent.append(request))
    return sent


def opened(url: str, endpoint: str = "") -> S3Storage:
    storage = open_storage(url, endpoint)
    assert isinstance(storage, S3Storage)
    return storage


def header(request: Any, name: str) -> str:
    value = request.headers.get(name, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


# -- credentials ------------------------------------------------------------------------------


def test_a_session_token_goes_with_every_request(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "for-an-hour")
    storage = opened(s3_url)
    sent = requests_of(storage)
    storage.append("run/log", 0, b"data", FENCE)
    assert {header(request, "X-Amz-Security-Token") for request in sent} == {"for-an-hour"}
    url = storage.presign("run/log", 60)
    assert url is not None
    assert "X-Amz-Security-Token=for-an-hour" in url


@pytest.fixture
def web_identity(
    s3_url: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What EKS gives a pod in place of keys: a role and a token; the token's file."""
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/spectrain")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", s3_server)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    return token


def test_a_role_by_web_identity_needs_no_keys(s3_url: str, web_identity: Path) -> None:
    storage = opened(s3_url)
    sent = requests_of(storage)
    storage.append("run/log", 0, b"data", FENCE)
    assert storage.read("run/log") == b"data"
    assert all(header(request, "X-Amz-Security-Token") for request in sent)


def test_credentials_that_run_out_are_renewed_in_the_middle_of_a_run(
    s3_url: str, web_identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the token that lies there by then: Kubernetes replaces it every hour."""
    storage = opened(s3_url)
    sent = requests_of(storage)
    storage.append("run/log", 0, b"one", FENCE)
    first = {header(request, "X-Amz-Security-Token") for request in sent}
    clients = (storage._bucket._client, storage._bucket._parts_client)
    credentials = {id(client._request_signer._credentials) for client in clients}
    assert len(credentials) == 1, "both clients renew the same"

    sent.clear()
    web_identity.write_text("second")
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=59)
    monkeypatch.setattr("botocore.credentials._local_now", lambda: soon)
    clients[0]._request_signer._credentials._time_fetcher = lambda: soon
    storage.append("run/log", 3, b"two", FENCE)
    large = tmp_path / "large"
    large.write_bytes(b"x" * (9 << 20))
    storage.put("run/large", large, FENCE)
    later = {header(request, "X-Amz-Security-Token") for request in sent}
    assert later.isdisjoint(first)
    assert storage.read("run/log") == b"onetwo"


def test_a_token_that_is_not_there_is_named(s3_url: str, web_identity: Path) -> None:
    storage = opened(s3_url)
    web_identity.unlink()
    for ask in (lambda: storage.stat("run/a"), lambda: storage.read("run/a"),
                lambda: storage.append("run/a", 0, b"x", FENCE)):  # fmt: skip
        with pytest.raises(
            StorageError,
            match=f"no credentials .*: AWS_WEB_IDENTITY_TOKEN_FILE names {web_identity}",
        ):
            ask()
    with pytest.raises(StorageError, match=r"\(check AWS_WEB_IDENTITY_TOKEN_FILE\)"):
        opened(s3_url)


# -- settings that cannot be used -------------------------------------------------------------

KEYLESS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
FILES = "AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"AWS_PROFILE": "none"}, "AWS_PROFILE"),
        ({"AWS_PROFILE": ""}, "AWS_PROFILE"),
        ({"AWS_DEFAULT_PROFILE": "none"}, "AWS_DEFAULT_PROFILE"),
        ({"AWS_REGION": "no region"}, "AWS_REGION"),
        ({"AWS_DEFAULT_REGION": "-"}, "AWS_DEFAULT_REGION"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS_SECRET_ACCESS_KEY"),
        (KEYLESS, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ({"SPECTRAIN_S3_ENDPOINT_URL": "no-url"}, "SPECTRAIN_S3_ENDPOINT_URL"),
        ({"SPECTRAIN_S3_ENDPOINT_URL": "ftp://store"}, "SPECTRAIN_S3_ENDPOINT_URL"),
        ({"SPECTRAIN_S3_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": "http://h:99999"},
         "AWS_ENDPOINT_URL_S3"),
        ({"AWS_MAX_ATTEMPTS": "x"}, "AWS_MAX_ATTEMPTS"),
        ({"AWS_MAX_ATTEMPTS": "0"}, "AWS_MAX_ATTEMPTS"),
        ({"AWS_DEFAULTS_MODE": "none"}, "AWS_DEFAULTS_MODE"),
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "none"}, "AWS_REQUEST_CHECKSUM_CALCULATION"),
        ({**KEYLESS, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/x"},
         "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ({**KEYLESS, "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/x",
          "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/none"},
         "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ],
)  # fmt: skip
def test_a_variable_that_cannot_be_used_is_named(
    s3_url: str, wrong: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wrong.items():
        if value or name == "AWS_PROFILE":
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name, raising=False)
    with pytest.raises(StorageError, match=named) as refused:
        opened(s3_url)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("AWS_CONFIG_FILE", "no section", "AWS_CONFIG_FILE"),
        ("AWS_SHARED_CREDENTIALS_FILE", "[", "AWS_SHARED_CREDENTIALS_FILE"),
        ("AWS_SHARED_CREDENTIALS_FILE", "[default]\naws_access_key_id = a", FILES),
        ("AWS_CONFIG_FILE", "[default]\nregion = no region", FILES),
        ("AWS_CONFIG_FILE", "[default]\nendpoint_url = no-url", FILES),
        ("AWS_CONFIG_FILE", "[default]\nca_bundle = /none", FILES),
        ("AWS_CONFIG_FILE", "[default]\ns3 = no table", FILES),
        ("AWS_CONFIG_FILE", "[default]\ncredential_process = /none", FILES),
        ("AWS_CONFIG_FILE", "[default]\nsource_profile = none\nrole_arn = a", FILES),
        ("AWS_CONFIG_FILE", "[default]\nsso_session = none", FILES),
    ],
)
def test_a_configuration_file_that_cannot_be_used_is_named(
    s3_url: str, file: str, text: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*KEYLESS, "SPECTRAIN_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(file, str(tmp_path / "file"))
    (tmp_path / "file").write_text(text)
    with pytest.raises(StorageError, match=rf"^cannot open the object store: .* \(check {named}"):
        opened(s3_url)


def test_an_endpoint_of_the_caller_is_not_blamed_on_the_environment(s3_url: str) -> None:
    with pytest.raises(StorageError, match=r"^cannot open the object store: .*: no-url$"):
        opened(s3_url, "no-url")


def test_a_bucket_that_cannot_exist_is_refused() -> None:
    with pytest.raises(StorageError, match="the bucket 'no_bucket!', which is no valid name"):
        open_storage("s3://no_bucket!/runs")


# -- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_is_taken_from_either_variable(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "eu-central-1")
    storage = opened(s3_url)
    sent = requests_of(storage)
    storage.stat("run/a")
    assert "/eu-central-1/s3/aws4_request" in header(sent[0], "Authorization")
    monkeypatch.delenv("SPECTRAIN_S3_ENDPOINT_URL")
    assert opened(s3_url)._bucket.endpoint == "https://s3.eu-central-1.amazonaws.com"


@pytest.mark.parametrize(
    "name", ["SPECTRAIN_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]
)
def test_buckets_of_a_store_of_ones_own_are_named_in_the_path(
    s3_url: str, s3_server: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("SPECTRAIN_S3_ENDPOINT_URL")
    by_name = s3_server.replace("127.0.0.1", "localhost")
    monkeypatch.setenv(name, by_name)
    storage = opened(s3_url)
    sent = requests_of(storage)
    storage.stat("run/a")
    assert sent[0].url.startswith(f"{by_name}/runs/")


def test_a_profile_may_have_buckets_named_in_the_host(
    s3_url: str, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a few stores demand it."""
    (tmp_path / "config").write_text("[default]\ns3 =\n  addressing_style = virtual\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    storage = opened(s3_url, s3_server.replace("127.0.0.1", "localhost"))
    url = storage._bucket.presign("a", 60)
    assert url.startswith("http://runs.localhost:")


# -- certificates -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that nobody else has signed, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_server(certificate: tuple[Path, Path], wait_until: Callable[..., Any]) -> Iterator[str]:
    """The address of an S3 server with that certificate."""
    port = free_port()
    public, private = certificate
    process = subprocess.Popen(
        [Path(sys.executable).with_name("moto_server"), "--port", str(port),
         "--ssl-cert", public, "--ssl-key", private],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(answers, what="the S3 server")
        address = f"https://127.0.0.1:{port}"
        httpx.put(f"{address}/runs", verify=_trusting(public)).raise_for_status()
        yield address
    finally:
        process.terminate()
        process.wait()


def _trusting(public: Path) -> Any:
    import ssl

    return ssl.create_default_context(cafile=public)


@pytest.mark.parametrize("kind", ["moto", "SeaweedFS"])
def test_all_that_a_run_needs_goes_over_tls_with_checksums_in_trailers(
    kind: str,
    s3_url: str,
    certificate: tuple[Path, Path],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SeaweedFS also verifies signatures, and that the checksums are those of the data."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    with contextlib.ExitStack() as stack:
        if kind == "moto":
            address = request.getfixturevalue("tls_server")
        else:
            plain = urlsplit(request.getfixturevalue("seaweedfs_server")).port
            assert plain is not None
            port = stack.enter_context(tls_in_front_of(plain, certificate))
            address = f"https://127.0.0.1:{port}"
        storage = opened(s3_url, address)
        sent = requests_of(storage)
        try_out(storage, "trial", thoroughly=True)
        assert storage.lacks.sentences() == []
        assert storage.list("trial") == []
    trailers = {header(request, "X-Amz-Trailer") for request in sent if request.method == "PUT"}
    assert "x-amz-checksum-crc32" in trailers


def test_a_certificate_of_ones_own_authority_is_trusted_where_that_is_said(
    s3_url: str,
    tls_server: str,
    certificate: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StorageError, match="is not trusted: set AWS_CA_BUNDLE to the file"):
        opened(s3_url, tls_server).stat("run/a")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    storage = opened(s3_url, tls_server)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(9 << 20))
    storage.put("run/large", large, FENCE)
    storage.get("run/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()


@pytest.mark.parametrize(
    ("text", "why"), [(None, "No such file or directory"), ("no PEM", "holds no certificate")]
)
def test_a_bundle_that_cannot_be_used_is_named(
    s3_url: str, text: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.pem"
    if text is not None:
        bundle.write_text(text)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(StorageError, match=rf"{bundle} .*: {why} \(check AWS_CA_BUNDLE\)"):
        opened(s3_url)
