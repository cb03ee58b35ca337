"""Settings from the environment, and from files that it names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from redis.connection import parse_url

from jobs.messages import celery_app
from jobs.setting_errors import SettingsError
from jobs.settings import Settings, connect
from monitoring.storage.base import StorageError
from monitoring.storage.open import open_storage


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REDIS_URL", "SPECTRAIN_REDIS_URL", "SPECTRAIN_API_TOKENS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_may_come_from_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {
        "api_port": "8081",
        "pool": "of-a-file",
        "device": "cpu",
        "spot": "off",
        "warm_start": "false",
        "s3_redirect": "false",
        "webhook_private": "true",
        "s3_addressing": "virtual",
        "redis_url": "redis://file:6379/0",
        "storage_url": "file:///file",
        "s3_endpoint_url": "http://file:9000",
        "spot_metadata_url": "http://file",
        "api_tokens": "a token from a file",
        "trusted_proxies": "10.0.0.0/8",
        "sso_header": "x-forwarded-user",
        "sso_role": "viewer",
        "job_user": "60000-60015",
        "job_processes": "7",
        "umask": "007",
    }
    number = name.endswith(("bytes", "seconds", "requests", "running", "gpus"))
    value = odd.get(name, "7" if number else "from a file")
    (tmp_path / "value").write_text(f"{value}\n")
    monkeypatch.delenv(f"SPECTRAIN_{name.upper()}", raising=False)
    monkeypatch.setenv(f"SPECTRAIN_{name.upper()}_FILE", str(tmp_path / "value"))
    settings = Settings()
    assert str(getattr(settings, name)).lower() in {value, f"{value}.0"}
    assert name in settings.model_fields_set


def test_a_variable_wins_over_its_file_and_an_argument_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pool").write_text("file")
    monkeypatch.setenv("SPECTRAIN_POOL_FILE", str(tmp_path / "pool"))
    assert Settings(pool="argument").pool == "argument"
    monkeypatch.setenv("SPECTRAIN_POOL", "variable")
    assert Settings().pool == "variable"


@pytest.mark.parametrize("tokens", ["short", "one-of-sixteen-or-more,fifteen-or-less"])
def test_a_token_that_is_easily_guessed_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tokens: str
) -> None:
    monkeypatch.setenv("SPECTRAIN_API_TOKENS", tokens)
    with pytest.raises(SettingsError, match="at least 16 characters") as refused:
        Settings()
    assert tokens not in str(refused.value)


def test_a_secret_in_place_of_its_file_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRAIN_API_TOKENS_FILE", "s3cret")
    with pytest.raises(SettingsError) as refused:
        Settings()
    assert "s3cret" not in str(refused.value)
    assert "SPECTRAIN_API_TOKENS_FILE names a file that cannot be read" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis//:s3cret@head",
        "redis://:s3cret",
        ":s3cret",
        "http://ann:s3cret@head",
        "redis://:s3cret:x/y",
    ],
)
def test_a_password_in_a_url_that_cannot_be_used_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("SPECTRAIN_REDIS_URL", url)
    with pytest.raises(SettingsError) as refused:
        Settings()
    assert "s3cret" not in str(refused.value)


def test_the_file_of_the_redis_url_wins_over_the_variable_of_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text("redis://file:6379/0")
    monkeypatch.setenv("REDIS_URL", "redis://other:6379/0")
    monkeypatch.setenv("SPECTRAIN_REDIS_URL_FILE", str(tmp_path / "url"))
    assert Settings().redis_url == "redis://file:6379/0"
    monkeypatch.setenv("SPECTRAIN_REDIS_URL", "redis://own:6379/0")
    assert Settings().redis_url == "redis://own:6379/0"


def test_a_file_that_is_not_there_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRAIN_API_TOKENS_FILE", str(tmp_path / "missing"))
    with pytest.raises(SettingsError, match=r"SPECTRAIN_API_TOKENS_FILE names a file .*missing"):
        Settings()


@pytest.mark.parametrize(
    "url", ["redis://head:6380/1", "rediss://head:6380/1", "redis://head:6380"]
)
def test_the_password_is_put_into_a_url_without_one_whatever_it_holds(url: str) -> None:
    password = "a/b:c@d#e?f%20 g"
    parts = parse_url(Settings(redis_url=url, redis_password=password).redis_address)
    assert parts["password"] == password
    assert {**parts, "password": None} == {**parse_url(url), "password": None}
    assert "username" not in parts


def test_the_user_of_a_url_stays_and_a_password_in_it_wins() -> None:
    user = parse_url(Settings(redis_url="redis://ann@head", redis_password="pw").redis_address)
    assert (user["username"], user["password"]) == ("ann", "pw")
    url = "redis://:own@head:6379/0"
    assert Settings(redis_url=url, redis_password="other").redis_address == url
    assert Settings(redis_url="redis://head").redis_address == "redis://head"


def test_client_and_celery_send_the_password() -> None:
    settings = Settings(redis_url="redis://head:6379/0", redis_password="pw")
    assert connect(settings).connection_pool.connection_kwargs["password"] == "pw"
    assert celery_app(settings).conf.broker_url == "redis://:pw@head:6379/0"


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("LEASE_SECONDS", "abc", "is 'abc'; allowed: a number greater than 0, at most 86400."),
        ("LEASE_SECONDS", "0", "is '0'; allowed: a number greater than 0, at most 86400."),
        ("LEASE_SECONDS", "inf", "is 'inf'; allowed: a number greater than 0, at most 86400."),
        ("GRACE_SECONDS", "1e308", "is '1e308'; allowed: a number greater than 0, at most 86400."),
        ("AGING_SECONDS", "nan", "is 'nan'; allowed: a number from 0 to 31536000."),
        ("API_PORT", "65536", "is '65536'; allowed: a whole number from 0 to 65535."),
        ("API_PORT", "", "is ''; allowed: a whole number from 0 to 65535."),
        ("DEVICE", "gpu", "is 'gpu'; allowed: one of auto, cpu, cuda."),
        ("WARM_START", "maybe", "is 'maybe'; allowed: true or false."),
        ("STORAGE_URL", "ftp://h/x", "is 'ftp://h/x'; allowed: file:///directory or s3://bucket/"),
        ("S3_ENDPOINT_URL", "h:9000", "is 'h:9000'; allowed: http://host:port or https://host:"),
        ("S3_ENDPOINT_URL", "http://h:x", "is 'http://h:x'; allowed: http://host:port or https:"),
        ("REDIS_URL", "head:6379", "is 'head:6379'; allowed: redis://host:port/number or "),
        ("REDIS_URL", "redis://[::1", "is 'redis://[::1'; allowed: redis://host:port/number or "),
    ],
)
def test_a_wrong_setting_is_one_sentence_with_its_variable_and_what_is_allowed(
    variable: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SPECTRAIN_{variable}", value)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert str(caught.value).startswith(f"SPECTRAIN_{variable} {sentence}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_wrong_value_is_traced_to_the_variable_or_file_that_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "http://head")
    (tmp_path / "port").write_text("many")
    monkeypatch.setenv("SPECTRAIN_API_PORT_FILE", str(tmp_path / "port"))
    with pytest.raises(SettingsError) as caught:
        Settings()
    first, second = sorted(str(caught.value).splitlines())
    assert first.startswith("REDIS_URL is 'http://head'; allowed:")
    assert second.startswith("SPECTRAIN_API_PORT (from SPECTRAIN_API_PORT_FILE) is 'many'; allowed")


@pytest.mark.parametrize(
    "url",
    [
        "rediss://:hunter2@head:port/0", "http://ann:hunter2@head", ":hunter2@head", "hunter2@",
        "redis://:hun@ter2:hunter2@head:x", "redis://:a/hunter2@head:x", "x://h?password=hunter2",
    ],
)  # fmt: skip
def test_no_sentence_shows_a_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("REDIS_URL", "STORAGE_URL", "S3_ENDPOINT_URL"):
        monkeypatch.setenv(f"SPECTRAIN_{variable}", url.replace("http", "wrong"))
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert "SPECTRAIN_STORAGE_URL is" in str(caught.value)
    assert "ter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "url",
    ["file:///a", "file://localhost/a", "file://host/a", "file:", "/a", "a", "s3://b", "s3://b/p",
     "s3:///p", "gs://b/p", ""],
)  # fmt: skip
def test_settings_take_the_urls_that_storage_can_open_and_no_others(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")

    def takes(call: Callable[[], object]) -> bool:
        try:
            call()
        except (SettingsError, StorageError):
            return False
        return True

    assert takes(lambda: Settings(storage_url=url)) == takes(lambda: open_storage(url))
