"""Settings from the environment, and from files that it names."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from redis.connection import parse_url

from jobs.messages import celery_app
from jobs.settings import Settings, connect


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
        "device": "cpu",
        "spot": "off",
        "warm_start": "false",
        "s3_redirect": "false",
    }
    value = odd.get(name, "7" if name.endswith("seconds") else "from a file")
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
    with pytest.raises(ValidationError, match=r"SPECTRAIN_API_TOKENS_FILE names a file .*missing"):
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
