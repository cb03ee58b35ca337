"""The whole service on one machine: its processes, with all their data in one directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx

from api.local.process import STOP_SECONDS, ServiceProcess
from api.local.redis_server import RedisConfig, find_redis_server
from api.ports import CannotListenError, holder, in_use, join, listen
from api.schemas import INSTANCE
from jobs.settings import Settings
from machine.cpus import usable_cpus
from machine.gpus import usable_gpus
from machine.python import python_module

_START_SECONDS = 60.0
# Longer than storage and Redis usually take; then the user is told what is missing.
_QUIET_SECONDS = 3.0
# A process that ends sooner than this after its start is restarted only after this time.
_CALM_SECONDS = 2.0
# How many ports Redis tries, if another process takes the free one first.
_REDIS_PORTS = 5
# The settings of a service. Secrets of jobs (SPECTRAIN_SECRET_*) are not settings.
_SETTING = re.compile(r"SPECTRAIN_(?!SECRET_)|REDIS_URL$")
# What a worker is not given: it calls no API.
_OF_THE_API = {"SPECTRAIN_API_TOKENS", "SPECTRAIN_API_TOKENS_FILE"}
# All that Redis is given, whose environment any process of the same user may read.
_OF_REDIS = re.compile(r"PATH$|LANG$|LC_|LD_|TZ$")
# Directories of the service in its data directory.
_OWN = ("logs", "redis", "experiments", "scratch")
# Wildcard addresses, and the address at which such a server is reached on this machine.
_ANSWERS_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


# Where `spectrain up` keeps its data, unless it is told otherwise.
DEFAULT_DATA = Path("spectrain-data")


class CannotStartError(Exception):
    """The service did not start; the message says which process failed, and why."""


class LocalService:
    """Redis (unless the environment names one), API and workers on this machine."""

    def __init__(
        self,
        data: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        workers: int | None = None,
        device: str = "auto",
        say: Callable[[str], None] = print,
        settings: Mapping[str, str] | None = None,
        isolated: bool = False,
        umask: int = -1,
    ) -> None:
        """`settings` are environment variables for all processes and override the environment.

        `umask` is that of API and workers when they start; -1: that of this process.

        An `isolated` service ignores the settings of the environment and starts its own Redis
        unless `settings` name one, so that it cannot affect another service. If the machine has
        fewer GPUs than `workers`, its workers share them.
        """
        self.data = data.resolve()
        self.host = host.removeprefix("[").removesuffix("]")
        self.port = port  # 0: `start` chooses a free one
        self._listener: socket.socket | None = None
        # Distinguishes the API of this service from another one that answers at its address.
        self._instance = secrets.token_hex(16)
        self._say = say
        self._lock: int | None = None
        self._logs = self.data / "logs"
        self._redis: RedisConfig | None = None
        self._processes: list[ServiceProcess] = []
        self._settings = dict(settings or {})
        self._isolated = isolated
        self._umask = umask
        self._waits_for = ""  # what keeps the API from being ready
        self._slots = _slots(device, workers, shared=isolated)

    @property
    def url(self) -> str:
        """The URL of the API, as seen from this machine."""
        return f"http://{join(_ANSWERS_AT.get(self.host, self.host), self.port)}"

    @property
    def workers(self) -> list[int]:
        """The process ids of the running workers."""
        return self._pids("worker")

    @property
    def redis(self) -> list[int]:
        """The process id of the running Redis, if this service started one."""
        return self._pids("redis")

    def start(self) -> None:
        """Starts all processes; if one fails, stops the others and raises `CannotStartError`."""
        grace = self._settings_in_force().grace_seconds + STOP_SECONDS
        self._take_directory()
        try:
            self._take_port()
            self._close_directories()
            self._start_redis()
            api = self._start_api()
            for number, slot in enumerate(self._slots, start=1):
                name = f"worker-{number}"
                self._start(name, python_module("worker"), grace=grace, env=slot)
            self._wait(api, self._api_answers)
        except BaseException:
            self.stop()
            raise

    def tend(self) -> None:
        """Restarts processes that have ended, and lets those go on that were stopped for long.

        Call it about once a second.

        Raises `CannotStartError` if another process has taken the port of Redis.
        """
        for process in self._processes:
            if not process.running and time.monotonic() - process.started > _CALM_SECONDS:
                if process.name == "redis" and self._redis and holder(self._redis.port):
                    raise CannotStartError(
                        f"redis has ended, and its {in_use(self._redis.port, 'start again')}"
                    )
                code = process.popen.returncode if process.popen else None
                self._say(f"{process.name} exited with code {code}; restarting it")
                process.start()
            elif (seconds := process.go_on()) is not None:
                self._say(f"{process.name} was stopped (SIGSTOP) for {seconds:.0f} s; it goes on")

    def stop(self) -> None:
        """Stops all processes, workers first, so that running jobs are saved and requeued."""
        workers = [p for p in self._processes if p.name.startswith("worker")]
        redis = [p for p in self._processes if p.name == "redis"]
        others = [p for p in self._processes if p not in workers and p not in redis]
        for group in (workers, others, redis):
            for process in group:
                process.terminate()
            for process in group:
                process.wait()
        self._processes.clear()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _pids(self, name: str) -> list[int]:
        return [
            p.popen.pid
            for p in self._processes
            if p.name.startswith(name) and p.popen is not None and p.running
        ]

    # -- processes ------------------------------------------------------------------------------

    def _take_directory(self) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStartError(f"another Spectrain service is running in {self.data}") from None

    def _close_directories(self) -> None:
        """Takes from others what the umask denies them, in directories of earlier versions too."""
        settings = self._settings_in_force()
        for name in _OWN:
            folder = self.data / name
            if not folder.exists():
                folder.mkdir()
            if folder.is_dir():
                folder.chmod(folder.stat().st_mode & ~settings.umask_bits)
        if settings.job_user:  # who passes on the way to a job's own directory
            self.data.chmod(self.data.stat().st_mode | 0o011)

    def _settings_in_force(self) -> Settings:
        """The settings of the environment, or the defaults if isolated; raises `SettingsError`."""
        return Settings.model_construct() if self._isolated else Settings()

    def _environment(self) -> dict[str, str]:
        """The environment that the processes inherit.

        Celery would prefer CELERY_BROKER_URL to the broker that Spectrain configures.
        """
        return {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CELERY_") and not (self._isolated and _SETTING.match(name))
        }

    def _environment_of(self, name: str, settings: Mapping[str, str]) -> dict[str, str]:
        """The environment of one process: what it needs of that of the service."""
        given = {**self._environment(), **settings}
        if name == "redis":
            return {name: value for name, value in given.items() if _OF_REDIS.match(name)}
        if name != "api":
            return {name: value for name, value in given.items() if name not in _OF_THE_API}
        return given

    def _start_redis(self) -> None:
        # Settings know all variables that may name a Redis.
        fields = self._settings_in_force().model_fields_set
        if "redis_url" in fields or "SPECTRAIN_REDIS_URL" in self._settings:
            return
        # Redis inherits the lock and so holds it until it ends, even if this process is killed.
        lock = () if self._lock is None else (self._lock,)
        for tries_left in reversed(range(_REDIS_PORTS)):
            self._redis = RedisConfig(self.data / "redis")
            command = [find_redis_server(), str(self._redis.path)]
            redis = self._start("redis", command, keeps=lock)
            try:
                self._wait(redis, self._redis.answers)
            except CannotStartError:
                # Another process may have taken the port after it was found free.
                if redis.running or not tries_left or not holder(self._redis.port):
                    raise
                self._processes.remove(redis)
            else:
                return

    def _take_port(self) -> None:
        """Binds the port of the API and keeps it across restarts of the API."""
        try:
            self._listener = listen(self.host, self.port)
        except CannotListenError as error:
            raise CannotStartError(str(error)) from None
        self.port = int(self._listener.getsockname()[1])

    def _start_api(self) -> ServiceProcess:
        listener = () if self._listener is None else (self._listener.fileno(),)
        command = python_module("api.server.serve", *(f"--fd={fd}" for fd in listener))
        settings = {
            "SPECTRAIN_API_HOST": self.host,
            "SPECTRAIN_API_PORT": str(self.port),
            "SPECTRAIN_INSTANCE": self._instance,
        }
        return self._start("api", command, keeps=listener, env=settings)

    def _start(
        self,
        name: str,
        command: list[str],
        *,
        grace: float = STOP_SECONDS,
        keeps: tuple[int, ...] = (),
        env: Mapping[str, str] | None = None,
    ) -> ServiceProcess:
        settings = {
            "SPECTRAIN_STORAGE_URL": (self.data / "experiments").as_uri(),
            "SPECTRAIN_SCRATCH_DIR": str(self.data / "scratch"),
        }
        if self._redis is not None:
            settings["SPECTRAIN_REDIS_URL"] = self._redis.url
        process = ServiceProcess(
            name,
            command,
            self._environment_of(name, {**settings, **self._settings, **(env or {})}),
            self._logs / f"{name}.log",
            grace,
            keeps,
            self._umask if name != "redis" else -1,
        )
        self._processes.append(process)
        process.start()
        return process

    def _wait(self, process: ServiceProcess, ready: Callable[[], bool]) -> None:
        begun, said = time.monotonic(), ""
        while not ready():
            seconds = time.monotonic() - begun
            if not process.running or seconds > _START_SECONDS:
                why = f"it is not ready: {self._waits_for}\n" if self._waits_for else ""
                raise CannotStartError(
                    f"{process.name} did not start:\n{why}{process.log_tail()}\n"
                    f"(log file: {process.log})"
                )
            if self._waits_for != said and seconds > _QUIET_SECONDS:
                said = self._waits_for
                self._say(f"Waiting: {said}")
            time.sleep(0.05)

    def _api_answers(self) -> bool:
        """Whether the API is ready; raises `CannotStartError` if another service answers."""
        try:
            # A proxy of the environment does not apply to this machine.
            answer = httpx.get(f"{self.url}/readyz", timeout=2, trust_env=False)
        except httpx.TransportError:
            return False
        if answer.headers.get(INSTANCE) != self._instance:
            raise CannotStartError(
                f"another service answers at {self.url} although its port was free; try --port"
            )
        is_ready = answer.status_code == httpx.codes.OK
        self._waits_for = "" if is_ready else _problem(answer)
        return is_ready


def is_running(data: Path) -> bool:
    """Whether a service runs with this data directory, which its processes keep locked."""
    try:
        with (data / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _problem(answer: httpx.Response) -> str:
    """What an API that is not ready says of it."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"its answer is {answer.status_code}"


def _slots(device: str, workers: int | None, *, shared: bool = False) -> list[dict[str, str]]:
    """The environment of each worker: one worker per GPU (`shared`: or more), or the CPU."""
    gpus = usable_gpus() if device != "cpu" else ()
    if device == "cuda" and not gpus:
        raise CannotStartError("--device cuda: this machine has no NVIDIA GPU")
    count = workers if workers is not None else max(1, len(gpus))
    if gpus:
        if shared:
            gpus = gpus * count
        return [{"SPECTRAIN_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus[:count]]
    slot = {"SPECTRAIN_DEVICE": "cpu"}
    if count > 1:  # two trainers that each use all cores are far slower than half as fast
        threads = max(1, usable_cpus() // count)
        slot["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(threads))
    return [slot] * count


@contextlib.contextmanager
def running(service: LocalService) -> Iterator[None]:
    """Runs the service for the duration of a block.

    SIGTERM ends the block like Ctrl-C, and so does closing the terminal, unless the service was
    started by nohup.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    try:
        service.start()
        yield
    finally:
        # A second Ctrl-C must not leave some processes running.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        service.stop()
