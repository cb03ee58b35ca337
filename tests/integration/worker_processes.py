"""Real worker processes, for tests of how they run jobs."""

from __future__ import annotations

import os

from jobs.settings import Settings
from tests.integration.one_worker import worker_settings
from tests.integration.warm_python import Program, WarmPython


class Workers:
    """Worker processes of a service, each with a log, ended with the test."""

    def __init__(self, settings: Settings, warm_python: WarmPython) -> None:
        self._warm_python = warm_python
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in {"REDIS_URL"}},
            **worker_settings(settings),
            "SPECTRAIN_WARM_START": "0",  # no job here imports torch
        }
        self.started: list[Program] = []

    def start(self, **settings: str) -> Program:
        process = self._warm_python.start("worker", env={**self.environment, **settings})
        self.started.append(process)
        return process

    def log(self, number: int = 0) -> str:
        return self.started[number].stdout + self.started[number].stderr

    def logs(self) -> str:
        return "".join(self.log(number) for number in range(len(self.started)))

    def stop(self) -> None:
        for process in self.started:
            process.kill()
