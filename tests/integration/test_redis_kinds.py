"""Other kinds of Redis: a user with few rights, TLS, Sentinel, and a cluster, which is refused."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from api.local.redis_server import find_redis_server, free_port
from bench.system.service import redis_server
from jobs.checks import Checks
from jobs.messages import Messenger, celery_app
from jobs.model.states import State
from jobs.reaper.reaper import Reaper
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore, open_store
from monitoring.storage.open import open_storage
from monitoring.storage.probe import StorageProbe
from tests.integration.one_worker import python
from tests.integration.tls import make_certificate, tls_in_front_of
from tests.integration.warm_python import WarmPython
from tests.integration.worker_processes import Workers

WaitUntil = Callable[..., Any]
RULES = "+@all -@dangerous ~spectrain:* ~_kombu.* ~unacked* resetchannels &spectrain:*"


def settings_for(url: str, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=url,
        storage_url=(tmp_path / "experiments").as_uri(),
        scratch_dir=tmp_path / "scratch",
        device="cpu",
        lease_seconds=3,
    )


@contextlib.contextmanager
def store_of(settings: Settings) -> Iterator[JobStore]:
    redis = connect(settings)
    try:
        yield open_store(redis, settings)
    finally:
        redis.close()


@contextlib.contextmanager
def worker_of(settings: Settings, warm_python: WarmPython) -> Iterator[Workers]:
    workers = Workers(settings, warm_python)
    workers.start()
    try:
        yield workers
    finally:
        workers.stop()


def runs_a_job(store: JobStore, messenger: Messenger, wait_until: WaitUntil) -> None:
    job = store.submit(python("print('done')"))
    messenger.announce("default", job.id)
    ended = wait_until(
        lambda: (found := store.get(job.id)).state in {State.SUCCEEDED, State.FAILED} and found,
        what="the job's end",
    )
    assert ended.state is State.SUCCEEDED, ended.message


def problems(settings: Settings, store: JobStore) -> list[str]:
    probe = StorageProbe(open_storage(settings.storage_url), settings.storage_url)
    checks = Checks(store.redis, settings, probe)
    try:
        return [found.problem for found in checks.run() if found.problem]
    finally:
        checks.leave()


@contextlib.contextmanager
def messenger_of(settings: Settings, store: JobStore) -> Iterator[Messenger]:
    messenger = Messenger(settings, store)
    try:
        yield messenger
    finally:
        messenger.close()


def works(settings: Settings, warm_python: WarmPython, wait_until: WaitUntil) -> None:
    """The checks pass, a worker runs a job, and the reaper passes."""
    with store_of(settings) as store, messenger_of(settings, store) as messenger:
        assert problems(settings, store) == []
        with worker_of(settings, warm_python) as workers:
            runs_a_job(store, messenger, wait_until)
            assert "Traceback" not in workers.logs()
        Reaper(store, messenger, lambda _: None).run_once()


# -- a user with few rights -------------------------------------------------------------------


def test_a_user_without_dangerous_commands_is_enough(
    tmp_path: Path, warm_python: WarmPython, wait_until: WaitUntil
) -> None:
    with redis_server(tmp_path) as config, Redis.from_url(config.url) as admin:
        admin.execute_command("ACL", "SETUSER", "spectrain", "on", ">pw", *RULES.split())
        settings = settings_for(f"redis://spectrain:pw@127.0.0.1:{config.port}/0", tmp_path)
        works(settings, warm_python, wait_until)
        with store_of(settings) as store:
            assert store.uptime() < 0


def test_a_user_with_too_few_rights_is_told_which(tmp_path: Path) -> None:
    with redis_server(tmp_path) as config, Redis.from_url(config.url) as admin:
        admin.execute_command("ACL", "SETUSER", "spectrain", "on", ">pw", "+@read", "~other:*")
        settings = settings_for(f"redis://spectrain:pw@127.0.0.1:{config.port}/0", tmp_path)
        with store_of(settings) as store:
            (problem,) = problems(settings, store)
    assert "may not do that: give it the rules in docs/settings.md" in problem
    assert "time" in problem


# -- TLS --------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The URL of a Redis behind TLS, and the certificate of its authority."""
    certificate = make_certificate(tmp_path / "tls")
    with redis_server(tmp_path) as config, tls_in_front_of(config.port, certificate) as port:
        password = config.url.split(":")[2].partition("@")[0]
        yield f"rediss://:{password}@127.0.0.1:{port}/0", certificate[0]


def test_a_worker_runs_a_job_over_tls(
    tls: tuple[str, Path], tmp_path: Path, warm_python: WarmPython, wait_until: WaitUntil
) -> None:
    url, authority = tls
    works(settings_for(f"{url}?ssl_ca_certs={authority}", tmp_path), warm_python, wait_until)


def test_client_and_broker_trust_what_ssl_cert_file_names(
    tls: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the chart with an authority of its user's own, whatever the URL says."""
    url, authority = tls
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    settings = settings_for(url, tmp_path)
    with store_of(settings) as store:
        assert store.redis.ping()
    with celery_app(settings).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0)


def test_client_and_broker_refuse_a_certificate_that_nobody_vouches_for(
    tls: tuple[str, Path], tmp_path: Path
) -> None:
    url, _ = tls
    settings = settings_for(url, tmp_path)
    with store_of(settings) as store:
        assert any("is not trusted" in problem for problem in problems(settings, store))
        with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            store.redis.ping()
    with (
        celery_app(settings).connection_for_write() as connection,
        pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        connection.ensure_connection(max_retries=1, interval_start=0)


def test_a_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path / "tls", "127.0.0.2")
    with redis_server(tmp_path) as config, tls_in_front_of(config.port, certificate) as port:
        settings = settings_for(
            f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate[0]}", tmp_path
        )
        with (
            celery_app(settings).connection_for_write() as connection,
            pytest.raises(OperationalError, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            connection.ensure_connection(max_retries=1, interval_start=0)


# -- Sentinel ---------------------------------------------------------------------------------


class Watched:
    """Two Redis and a Sentinel that watches them under the name `jobs`."""

    def __init__(self, directory: Path) -> None:
        self.ports = [free_port(), free_port()]
        self.sentinel_port = free_port()
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, wait_until: WaitUntil) -> None:
        first = self.ports[0]
        for port in self.ports:
            replica = "" if port == first else f"replicaof 127.0.0.1 {first}\n"
            self._serve(port, f'save ""\nrequirepass pw\nmasterauth pw\n{replica}')
        for port in self.ports:
            wait_until(lambda port=port: _answers(port), what="Redis")
        with self.admin(1) as redis:
            wait_until(lambda: redis.info("replication")["master_link_status"] == "up", what="link")
        self._serve(
            self.sentinel_port,
            f"sentinel monitor jobs 127.0.0.1 {first} 1\nsentinel auth-pass jobs pw\n"
            "sentinel down-after-milliseconds jobs 500\nsentinel failover-timeout jobs 3000\n",
            "--sentinel",
        )
        wait_until(lambda: _answers(self.sentinel_port), what="Sentinel")
        with Redis(port=self.sentinel_port, decode_responses=True) as sentinel:
            wait_until(lambda: len(sentinel.sentinel_slaves("jobs")) == 1, what="the replica")

    @property
    def url(self) -> str:
        nobody = free_port()
        return f"redis+sentinel://:pw@127.0.0.1:{nobody},127.0.0.1:{self.sentinel_port}/jobs/0"

    def admin(self, number: int) -> Redis:
        return Redis(port=self.ports[number], password="pw", decode_responses=True)

    def kill(self, number: int) -> None:
        self._processes[number].kill()
        self._processes[number].wait()

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def _serve(self, port: int, config: str, *options: str) -> None:
        folder = self._directory / str(port)
        folder.mkdir()
        (folder / "redis.conf").write_text(f'bind 127.0.0.1\nport {port}\ndir "{folder}"\n{config}')
        command = [find_redis_server(), str(folder / "redis.conf"), *options]
        self._processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def watched(tmp_path: Path, wait_until: WaitUntil) -> Iterator[Watched]:
    watched = Watched(tmp_path)
    try:
        watched.start(wait_until)
        yield watched
    finally:
        watched.stop()


def test_a_worker_goes_on_with_the_redis_that_a_sentinel_promotes(
    watched: Watched, tmp_path: Path, warm_python: WarmPython, wait_until: WaitUntil
) -> None:
    settings = settings_for(watched.url, tmp_path)
    with store_of(settings) as store, messenger_of(settings, store) as messenger:
        assert problems(settings, store) == []
        with worker_of(settings, warm_python):
            runs_a_job(store, messenger, wait_until)
            watched.kill(0)
            with watched.admin(1) as redis:
                wait_until(lambda: redis.info("replication")["role"] == "master", what="failover")

            def takes_a_job() -> bool:
                with contextlib.suppress(RedisConnectionError):
                    runs_a_job(store, messenger, wait_until)
                    return True
                return False

            wait_until(takes_a_job, what="a job after the failover")


def test_a_service_that_no_sentinel_knows_is_named(watched: Watched, tmp_path: Path) -> None:
    settings = settings_for(watched.url.replace("/jobs/", "/other/"), tmp_path)
    with store_of(settings) as store:
        (problem,) = problems(settings, store)
    assert problem.startswith("no Sentinel of other (Sentinel 127.0.0.1:")


# -- a cluster --------------------------------------------------------------------------------


def state_of(admin: Redis) -> str:
    answer = admin.execute_command("CLUSTER INFO")
    return str(answer["cluster_state"])


def test_a_cluster_is_refused_in_one_sentence(tmp_path: Path, wait_until: WaitUntil) -> None:
    # A cluster also listens on the port 10,000 above.
    port = next(port for port in iter(free_port, None) if port <= 55_535)
    command = [find_redis_server(), "--port", str(port), "--dir", str(tmp_path), "--save", "",
               "--cluster-enabled", "yes"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port), what="Redis")
        with Redis(port=port) as admin:
            # Before and after the cluster is up.
            for state in ("fail", "ok"):
                wait_until(lambda state=state: state_of(admin) == state, what="the cluster")
                settings = settings_for(f"redis://127.0.0.1:{port}/0", tmp_path)
                with store_of(settings) as store:
                    (problem,) = problems(settings, store)
                assert "is part of a cluster" in problem
                assert "use one Redis, or one with replicas and Sentinel" in problem
                if state == "fail":
                    admin.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
    finally:
        server.kill()
        server.wait()
