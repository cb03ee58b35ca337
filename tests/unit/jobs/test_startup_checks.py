"""The checks at the start of a process, and the trial of storage after them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from api.server.readiness import Readiness
from jobs.checks import Checks, Finding, StartupChecks


class Stub:
    """Checks and trials that find these problems, one after the other; then none."""

    def __init__(self, checks: list[str], trials: list[str]) -> None:
        self._left = {"checks": checks, "trials": trials}
        self.calls: list[str] = []
        self.verdicts: list[str] = []
        self.reported = threading.Event()

    def _next(self, kind: str) -> list[Finding]:
        self.calls.append(kind)
        left = self._left[kind]
        return [Finding(kind, left.pop(0) if left else "")]

    def run(self) -> list[Finding]:
        return self._next("checks")

    def try_out(self, *, thoroughly: bool = False) -> list[Finding]:
        return [*self._next("trials"), Finding("storage", note="no luxury: it is done without")]

    def report(self) -> None:
        self.reported.set()

    def leave(self) -> None:
        self.calls.append("leave")


def started(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> StartupChecks:
    monkeypatch.setattr(StartupChecks, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(StartupChecks, "_REPORT_SECONDS", 0.01)
    checks = StartupChecks(cast(Checks, stub), lambda: stub.verdicts.append(checks.verdict))
    checks.start()
    assert stub.reported.wait(10)
    checks.stop()
    return checks


def test_storage_is_tried_once_after_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(["Redis is away"], [])
    assert started(stub, monkeypatch).verdict == ""
    assert stub.calls == ["checks", "checks", "trials", "leave"]
    assert stub.verdicts == ["Redis is away", ""]


def test_a_worker_takes_no_job_while_storage_cannot_do_what_jobs_need(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub = Stub([], ["no rename", "no rename"])
    assert started(stub, monkeypatch).verdict == ""
    assert stub.calls == ["checks", "trials", "checks", "trials", "checks", "trials", "leave"]
    # It is not taken for healthy in between.
    assert stub.verdicts == ["", "no rename", ""]


def test_the_api_tries_storage_once_and_is_ready_whatever_comes_of_it(
    caplog: pytest.LogCaptureFixture, wait_until: Callable[..., Any]
) -> None:
    stub = Stub([], ["no rename"])
    readiness = Readiness(cast(Checks, stub))
    with caplog.at_level(logging.WARNING):
        assert readiness.found() == [Finding("checks")]
        wait_until(lambda: caplog.messages, what="the trial")
    readiness.found()
    readiness.leave()
    assert stub.calls == ["checks", "trials", "leave"]
    assert caplog.messages == ["jobs cannot use this storage: no rename"]
