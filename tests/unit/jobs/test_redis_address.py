"""Which Redis a URL means, to the client of the records and to that of the messages."""

from __future__ import annotations

import ssl

import pytest
from redis.sentinel import SentinelConnectionPool

from jobs.redis_address import RedisAddress, where_is
from jobs.settings import Settings, SettingsError

SENTINEL = "redis+sentinel://ann:p%40ss@a:1,b,[::1]:3/jobs/2"


def test_a_server_is_what_its_url_says() -> None:
    address = RedisAddress.parse("redis://:pw@head:6379/3")
    assert address.broker_url == "redis://:pw@head:6379/3"
    settings = address.broker_settings(socket_timeout=10)
    assert settings == {"broker_transport_options": {"socket_timeout": 10}, "broker_use_ssl": None}
    assert where_is(address.client()) == "head:6379"


def test_sentinels_are_asked_for_the_server_of_a_service() -> None:
    address = RedisAddress.parse(SENTINEL)
    assert address.sentinels == (("a", 1), ("b", 26379), ("::1", 3))
    assert address.broker_url == (
        "sentinel://ann:p%40ss@a:1/2;sentinel://ann:p%40ss@b:26379/2;sentinel://ann:p%40ss@[::1]:3/2"
    )
    options = address.broker_settings(socket_timeout=10)["broker_transport_options"]
    assert options["master_name"] == "jobs"
    pool = address.client(socket_timeout=10).connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    wanted = {"username": "ann", "password": "p@ss", "db": 2, "socket_timeout": 10}
    assert wanted.items() <= pool.connection_kwargs.items()
    assert where_is(address.client()) == "jobs (Sentinel a:1,b:26379,::1:3)"


def test_sentinels_have_a_login_of_their_own() -> None:
    url = "rediss+sentinel://:pw@a/jobs?sentinel_username=s&sentinel_password=t&ssl_ca_certs=/ca"
    address = RedisAddress.parse(url)
    options = address.broker_settings()["broker_transport_options"]["sentinel_kwargs"]
    wanted = {"username": "s", "password": "t", "ssl": True, "ssl_ca_certs": "/ca"}
    assert wanted.items() <= options.items()
    assert address.broker_url == "sentinel://:pw@a:26379/0"
    assert address.broker_settings()["broker_use_ssl"]["ssl_ca_certs"] == "/ca"


@pytest.mark.parametrize(
    ("query", "required", "checks"),
    [
        ("", ssl.CERT_REQUIRED, True),
        ("?ssl_ca_certs=/ca", ssl.CERT_REQUIRED, True),
        ("?ssl_cert_reqs=required&ssl_check_hostname=false", ssl.CERT_REQUIRED, False),
        ("?ssl_cert_reqs=none", ssl.CERT_NONE, False),
    ],
)
def test_the_broker_verifies_certificates_unless_told_not_to(
    query: str, required: ssl.VerifyMode, checks: bool
) -> None:
    address = RedisAddress.parse(f"rediss://head:6379/0{query}")
    tls = address.broker_settings()["broker_use_ssl"]
    assert (tls["ssl_cert_reqs"], tls["ssl_check_hostname"]) == (required, checks)
    assert address.broker_url == "rediss://head:6379/0"


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://a:1", "redis+sentinel:///jobs", "redis+sentinel://a/jobs/x", "unix:///x",
     "sentinel://a/jobs", "redis+sentinel://a:x/jobs", "redis+sentinel://a,/jobs"],
)  # fmt: skip
def test_a_url_that_names_no_redis_is_refused_with_the_forms(url: str) -> None:
    with pytest.raises(SettingsError, match=r"redis\+sentinel://host:port,host:port/service/num"):
        Settings(redis_url=url)


def test_a_password_of_its_own_goes_to_the_servers_of_a_service() -> None:
    settings = Settings(redis_url="redis+sentinel://a:1,b:2/jobs/0", redis_password="p@ss")
    assert settings.redis_address == "redis+sentinel://:p%40ss@a:1,b:2/jobs/0"
