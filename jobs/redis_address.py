"""The address of Redis: one server, or a service that Sentinels know the present server of.

    redis://user:password@host:port/number
    rediss://…?ssl_ca_certs=/path/ca.crt                       over TLS
    redis+sentinel://user:password@host:port,host:port/service/number
    rediss+sentinel://…?sentinel_username=…&sentinel_password=…

Over TLS a certificate is verified, by the client of the records and by that of the messages.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from redis import Redis
from redis.connection import parse_url
from redis.sentinel import Sentinel, SentinelConnectionPool

SCHEMES = frozenset({"redis", "rediss", "redis+sentinel", "rediss+sentinel"})
_SENTINEL_PORT = 26379
_OF_SENTINELS = ("sentinel_username", "sentinel_password")
_TIMEOUTS = ("socket_timeout", "socket_connect_timeout")


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is, and how to talk to it; `url` is that of a server, without the Sentinels."""

    url: str
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_login: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """The address in a URL; raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ValueError(url)
        if not parts.scheme.endswith("+sentinel"):
            parse_url(url)  # type: ignore[no-untyped-call]
            return cls(url)
        login, _, hosts = parts.netloc.rpartition("@")
        service, _, number = unquote(parts.path).strip("/").partition("/")
        if not service or not hosts or not (number or "0").isdigit():
            raise ValueError(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        own = tuple(
            (name.removeprefix("sentinel_"), query.pop(name))
            for name in _OF_SENTINELS
            if name in query
        )
        scheme = parts.scheme.removesuffix("+sentinel")
        server = parts._replace(
            scheme=scheme,
            netloc=f"{login}@{service}" if login else service,
            path=f"/{number or 0}",
            query=urlencode(query),
        ).geturl()
        parse_url(server)  # type: ignore[no-untyped-call]
        return cls(server, tuple(_host(host) for host in hosts.split(",")), service, own)

    def client(self, **options: Any) -> Redis:
        """A client; `options` are those of redis-py."""
        if not self.sentinels:
            return Redis.from_url(self.url, **options)
        timeouts = {name: options[name] for name in _TIMEOUTS if name in options}
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            list(self.sentinels),
            sentinel_kwargs={**timeouts, **self._sentinel_options()},
            **{**self._server_options(), **options},
        )
        return cast(Redis, sentinel.master_for(self.service))  # type: ignore[no-untyped-call]

    @property
    def broker_url(self) -> str:
        """The URL for kombu; the rest is in `broker_settings`."""
        parts = urlsplit(self.url)._replace(query="")
        if not self.sentinels:
            return parts.geturl()
        login = parts.netloc.rpartition("@")[0]
        return ";".join(
            parts._replace(
                scheme="sentinel", netloc=f"{f'{login}@' if login else ''}{_bracketed(host)}:{port}"
            ).geturl()
            for host, port in self.sentinels
        )

    def broker_settings(self, **options: Any) -> dict[str, Any]:
        """Settings of Celery for this address; `options` are those of kombu's transport."""
        if self.sentinels:
            timeouts = {name: options[name] for name in _TIMEOUTS if name in options}
            options["master_name"] = self.service
            options["sentinel_kwargs"] = {**timeouts, **self._sentinel_options()}
        return {"broker_transport_options": options, "broker_use_ssl": self._tls() or None}

    def _server_options(self) -> dict[str, Any]:
        """The login, number and other options of a server whose host a Sentinel tells."""
        found = dict(parse_url(self.url))  # type: ignore[no-untyped-call]
        for name in ("host", "port", "connection_class"):
            found.pop(name, None)
        return {**found, **({"ssl": True} if self._tls() else {})}

    def _sentinel_options(self) -> dict[str, Any]:
        tls = self._tls()
        return {**dict(self.sentinel_login), **tls, **({"ssl": True} if tls else {})}

    def _tls(self) -> dict[str, Any]:
        """How certificates are verified; nothing without TLS. kombu verifies none by itself."""
        if urlsplit(self.url).scheme != "rediss":
            return {}
        given = dict(parse_url(self.url))  # type: ignore[no-untyped-call]
        tls = {name: value for name, value in given.items() if name.startswith("ssl_")}
        kinds = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL}
        required = kinds.get(str(tls.get("ssl_cert_reqs", "")).lower(), ssl.CERT_REQUIRED)
        verified = required is not ssl.CERT_NONE
        return {"ssl_check_hostname": verified, **tls, "ssl_cert_reqs": required}


def where_is(redis: Redis) -> str:
    """The place of a Redis in words, without its password."""
    pool = redis.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        nodes = pool.sentinel_manager.sentinels
        kwargs = [node.connection_pool.connection_kwargs for node in nodes]
        hosts = ",".join(f"{one.get('host')}:{one.get('port')}" for one in kwargs)
        return f"{pool.service_name} (Sentinel {hosts})"
    found = pool.connection_kwargs
    return str(found.get("path") or f"{found.get('host')}:{found.get('port')}")


def with_password(url: str, password: str) -> str:
    """The URL with a password, if it holds none."""
    parts = urlsplit(url)
    if not password or parts.password is not None:
        return url
    user, host = parts.username or "", parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()


def _host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or _SENTINEL_PORT


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
