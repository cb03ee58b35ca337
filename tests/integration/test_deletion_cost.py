"""What a worker says on its pod, to a server that answers as the Kubernetes API does to PATCH."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.messages import Messenger
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from machine.kubernetes import KubernetesApi
from tests.kubernetes_api import KubernetesServer
from worker.cluster.deletion_cost import (
    ANNOTATION,
    BUSY,
    IDLE,
    NoDeletionCost,
    PodDeletionCost,
    pod_deletion_cost,
)

Wait = Callable[..., Any]
POD = "/api/v1/namespaces/ml/pods/worker-1"


class Pods(KubernetesServer):
    """One pod, and the costs that were written on it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.costs: list[str] = []
        default = {"kubectl.kubernetes.io/default-container": "worker"}
        self.objects[POD] = {"kind": "Pod", "metadata": {"annotations": default}}

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "POD_NAME": "worker-1"}

    @property
    def annotations(self) -> dict[str, str]:
        return dict(self.objects[POD]["metadata"]["annotations"])

    def answer(
        self, method: str, path: str, token: str, kind: str, body: bytes
    ) -> tuple[int, dict[str, Any]]:
        status, found = super().answer(method, path, token, kind, body)
        if status == 200:
            change = json.loads(body)
            assert method == "PATCH"
            assert change.keys() == {"metadata"}
            assert change["metadata"].keys() == {"annotations"}
            assert all(isinstance(v, str) for v in change["metadata"]["annotations"].values())
            self.costs.append(self.annotations[ANNOTATION])
        return status, found


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Pods]:
    api = Pods(tmp_path)
    yield api
    api.close()


@pytest.fixture
def cost(api: Pods) -> Iterator[PodDeletionCost]:
    called = KubernetesApi.of_this_pod(api.environment, api.credentials)
    assert called is not None
    cost = PodDeletionCost(called, POD, retry_seconds=0.05)
    yield cost
    cost.stop()


def test_a_busy_worker_costs_more_than_an_idle_one_and_no_other_annotation_changes(
    api: Pods, cost: PodDeletionCost, wait_until: Wait
) -> None:
    cost.start()
    wait_until(lambda: api.costs == [str(IDLE)], what="the first cost")
    cost.set(BUSY)
    wait_until(lambda: api.costs[1:] == [str(BUSY)], what="the job's")
    assert int(api.annotations[ANNOTATION]) > IDLE
    assert api.annotations["kubectl.kubernetes.io/default-container"] == "worker"
    cost.set(IDLE)
    wait_until(lambda: api.costs[2:] == [str(IDLE)], what="the job's end")


def test_a_container_that_was_started_again_does_not_stay_as_dear_as_it_was(
    api: Pods, cost: PodDeletionCost, wait_until: Wait
) -> None:
    api.objects[POD]["metadata"]["annotations"][ANNOTATION] = str(BUSY)
    cost.start()
    wait_until(lambda: api.annotations[ANNOTATION] == str(IDLE), what="the cost of an idle worker")


def test_what_is_said_twice_is_one_call(api: Pods, cost: PodDeletionCost, wait_until: Wait) -> None:
    cost.start()
    wait_until(lambda: api.costs, what="the first cost")
    for _ in range(10):
        cost.set(IDLE)
    cost.set(BUSY)
    wait_until(lambda: api.costs[-1] == str(BUSY), what="the job's")
    assert api.calls == [200, 200]


def test_an_api_that_is_away_is_told_once_and_has_the_last_word_when_it_is_back(
    api: Pods,
    cost: PodDeletionCost,
    wait_until: Wait,
    caplog: pytest.LogCaptureFixture,
) -> None:
    api.refuses = 503
    with caplog.at_level(logging.INFO, logger="worker.cluster.deletion_cost"):
        cost.start()
        wait_until(lambda: len(api.calls) > 2, what="several tries")
        cost.set(BUSY)
        api.refuses = None
        wait_until(lambda: api.annotations.get(ANNOTATION) == str(BUSY), what="the last cost")
        wait_until(lambda: "is set again" in caplog.text, what="the end of it in the log")
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1


def test_a_right_that_is_missing_is_told_with_what_to_change(
    api: Pods,
    cost: PodDeletionCost,
    wait_until: Wait,
    caplog: pytest.LogCaptureFixture,
) -> None:
    api.refuses = 403
    cost.start()
    wait_until(lambda: "workers.deletionCost" in caplog.text, what="the warning")


def test_a_token_that_kubernetes_renewed_is_read_anew(
    api: Pods, cost: PodDeletionCost, wait_until: Wait
) -> None:
    cost.start()
    wait_until(lambda: api.costs, what="the first cost")
    api.token("second")
    cost.set(BUSY)
    wait_until(lambda: api.costs[-1] == str(BUSY), what="the job's")
    assert 401 not in api.calls


def test_a_server_that_another_authority_vouches_for_gets_no_token(
    api: Pods,
    cost: PodDeletionCost,
    wait_until: Wait,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "other").mkdir()
    other = Pods(tmp_path / "other")
    other.close()
    (api.credentials / "ca.crt").write_bytes((other.credentials / "ca.crt").read_bytes())
    cost.start()
    wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in caplog.text, what="the warning")
    assert api.calls == []


@pytest.mark.parametrize("missing", ["POD_NAME", "POD_NAMESPACE", "KUBERNETES_SERVICE_HOST"])
def test_outside_of_a_pod_nothing_is_told(api: Pods, missing: str) -> None:
    environment = {k: v for k, v in api.environment.items() if k != missing}
    assert isinstance(pod_deletion_cost(environment, api.credentials), NoDeletionCost)


def test_a_pod_without_a_token_tells_nothing(api: Pods, tmp_path: Path) -> None:
    assert isinstance(pod_deletion_cost(api.environment, tmp_path), NoDeletionCost)
    assert isinstance(pod_deletion_cost(api.environment, api.credentials), PodDeletionCost)


_WORKER = (
    "import pathlib, sys; import worker.cluster.deletion_cost as cost;"
    "cost.CREDENTIALS = pathlib.Path(sys.argv.pop()); from worker.app import main; main()"
)


def test_a_worker_that_runs_a_job_is_the_last_to_go(
    settings: Settings, store: JobStore, api: Pods, tmp_path: Path, wait_until: Wait
) -> None:
    gate = tmp_path / "gate"
    waiting = f"until test -e {gate}; do sleep 0.05; done"
    job = store.submit(JobSpec(name="nap", command=["sh", "-c", waiting]))
    process = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(api.credentials)],
        env={
            **os.environ,
            **api.environment,
            "SPECTRAIN_REDIS_URL": settings.redis_url,
            "SPECTRAIN_STORAGE_URL": settings.storage_url,
            "SPECTRAIN_SCRATCH_DIR": str(settings.scratch_dir),
            "SPECTRAIN_DEVICE": "cpu",
            "SPECTRAIN_WARM_START": "0",
        },
    )
    try:
        Messenger(settings, store).announce("default", job.id)
        wait_until(
            lambda: api.annotations.get(ANNOTATION) == str(BUSY), what="the job's", seconds=90
        )
        gate.touch()
        wait_until(lambda: store.get(job.id).state is State.SUCCEEDED, what="its end")
        wait_until(lambda: api.annotations[ANNOTATION] == str(IDLE), what="an idle worker's cost")
    finally:
        process.kill()
        process.wait()
