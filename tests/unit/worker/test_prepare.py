"""What a training process is started with."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.model.record import Attempt, Job, Origin
from jobs.model.references import ATTEMPT_VARIABLES
from jobs.model.spec import JobSpec
from jobs.model.states import State
from jobs.settings import Settings
from worker.files.scratch import Scratch
from worker.launch import prepare as module
from worker.launch.prepare import CannotLaunchError, Slot, prepare

SETTINGS = Settings(redis_url="redis://x", grace_seconds=45)


def job(**spec: object) -> Job:
    return Job(
        id="a-1",
        spec=JobSpec.model_validate({"name": "a", "command": ["python", "x.py"], **spec}),
        state=State.RUNNING,
        sequence=1,
        attempt=3,
        priority=5,
        submitted_at=0.0,
        queued_at=0.0,
        attempts=[Attempt(number=3, worker="w", started_at=0.0)],
    )


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    scratch = Scratch(tmp_path / "scratch", "a-1", 3)
    with scratch.held():
        yield scratch


def test_a_job_sees_its_contract_and_nothing_of_the_service(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "SPECTRAIN_API_TOKENS",
        "SPECTRAIN_REDIS_URL",
        "REDIS_URL",
        "AWS_SECRET_ACCESS_KEY",
    ):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("SPECTRAIN_SECRET_OTHER", "secret")
    monkeypatch.setenv("HOME", "/home/somebody")
    launch = prepare(job(env={"WANDB_MODE": "offline"}), scratch, Slot(("3",)), SETTINGS)
    assert "secret" not in launch.env.values()
    assert launch.env["HOME"] == "/home/somebody"
    assert launch.env["WANDB_MODE"] == "offline"
    assert launch.env["SPECTRAIN_JOB_ID"] == "a-1"
    assert launch.env["SPECTRAIN_ATTEMPT"] == "3"
    assert launch.env["SPECTRAIN_RUN_DIR"] == str(scratch.run.root)
    assert launch.env["SPECTRAIN_GRACE_SECONDS"] == "45"
    assert launch.env["CUDA_VISIBLE_DEVICES"] == "3"
    assert launch.env["PATH"].startswith(str(Path(sys.executable).parent))
    assert launch.cwd == scratch.workspace
    assert not list(launch.cwd.iterdir())


def test_a_job_is_stopped_by_its_signal_and_torchrun_waits_for_the_grace(scratch: Scratch) -> None:
    usual = prepare(job(), scratch, Slot(()), SETTINGS)
    assert (usual.stop_signal, usual.env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) == (
        signal.SIGTERM,
        "45",
    )
    env = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5"}
    own = prepare(job(stop_signal="SIGUSR1", env=env), scratch, Slot(()), SETTINGS)
    assert (own.stop_signal, own.env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) == (signal.SIGUSR1, "5")


def test_threads_on_the_cpu_do_not_spin_unless_told_to(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert prepare(job(), scratch, Slot(()), SETTINGS).env["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in prepare(job(), scratch, Slot(("0",)), SETTINGS).env
    active = prepare(job(env={"OMP_WAIT_POLICY": "ACTIVE"}), scratch, Slot(()), SETTINGS)
    assert active.env["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_jobs_path_comes_before_the_workers(scratch: Scratch) -> None:
    ours = prepare(job(), scratch, Slot(()), SETTINGS).env["PATH"]
    own = prepare(job(env={"PATH": "/conda/bin:/tools"}), scratch, Slot(()), SETTINGS)
    assert own.env["PATH"] == f"/conda/bin:/tools:{ours}"
    empty = prepare(job(env={"PATH": ""}), scratch, Slot(()), SETTINGS)
    assert empty.env["PATH"] == ours


def test_a_path_that_names_the_workers_has_it_once(scratch: Scratch) -> None:
    ours = prepare(job(), scratch, Slot(()), SETTINGS).env["PATH"]
    own = prepare(job(env={"PATH": "/conda/bin:$(PATH)"}), scratch, Slot(()), SETTINGS)
    assert own.env["PATH"] == f"/conda/bin:{ours}"


def test_references_are_the_variables_of_the_attempt(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRAIN_SECRET_TOKEN", "secret")
    monkeypatch.setenv("HOME", "/home/x")
    spec = {
        "command": ["t", "--out=$(OUT)", "$(SPECTRAIN_ATTEMPT)", "$(TOKEN)", "$$(OUT)"],
        "env": {"OUT": "$(DIR)/out", "DIR": "$(SPECTRAIN_RUN_DIR)", "CACHE": "$(HOME)/.cache"},
        "secrets": ["TOKEN"],
    }
    launch = prepare(job(**spec), scratch, Slot(()), SETTINGS)
    out = f"{scratch.run.root}/out"
    assert launch.command == ["t", f"--out={out}", "3", "secret", "$(OUT)"]
    assert (launch.env["OUT"], launch.env["CACHE"]) == (out, "/home/x/.cache")
    with pytest.raises(CannotLaunchError, match="a variable NO: set it in `env`"):
        prepare(job(command=["t", "$(NO)"]), scratch, Slot(()), SETTINGS)
    with pytest.raises(CannotLaunchError, match="a variable NO: set it in `env`"):
        prepare(job(env={"A": "$(NO)"}), scratch, Slot(()), SETTINGS)


def test_every_variable_of_the_service_can_be_referred_to(scratch: Scratch) -> None:
    forked = job(inputs={"data": "file:///data"}).model_copy(
        update={"forked_from": Origin(job="a-23456789", step=7)}
    )
    env = prepare(forked, scratch, Slot(()), SETTINGS).env
    assert {name for name in env if name.startswith("SPECTRAIN_")} == {*ATTEMPT_VARIABLES}


def test_a_script_is_left_to_bash(scratch: Scratch) -> None:
    script = 'echo "$(date)" $(OWN) $$(OWN) $SPECTRAIN_RUN_DIR'
    spec = {"command": None, "run": script, "env": {"OWN": "1"}}
    launch = prepare(job(**spec), scratch, Slot(()), SETTINGS)
    assert launch.command == ["bash", "-euo", "pipefail", "-c", script]


def test_a_worker_without_bash_says_so(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CannotLaunchError, match="`run` needs bash, and this worker has none"):
        prepare(job(command=None, run="true"), scratch, Slot(()), SETTINGS)
    other = job(command=None, run="true", resume_command=["t"])
    assert prepare(other, scratch, Slot(()), SETTINGS, resumed=True).command == ["t"]


@pytest.mark.parametrize("resumed", [False, True])
def test_the_program_is_told_whether_there_is_something_to_go_on_from(
    scratch: Scratch, resumed: bool
) -> None:
    spec = {"command": ["t"], "resume_args": ["--from=$(SPECTRAIN_RUN_DIR)"]}
    launch = prepare(job(**spec), scratch, Slot(()), SETTINGS, resumed=resumed)
    assert launch.env["SPECTRAIN_RESUMED"] == str(int(resumed))
    assert launch.command == ["t", *[f"--from={scratch.run.root}"][: int(resumed)]]


def test_output_is_not_buffered_unless_the_job_says_so(scratch: Scratch) -> None:
    assert prepare(job(), scratch, Slot(()), SETTINGS).env["PYTHONUNBUFFERED"] == "1"
    own = prepare(job(env={"PYTHONUNBUFFERED": ""}), scratch, Slot(()), SETTINGS)
    assert own.env["PYTHONUNBUFFERED"] == ""


@pytest.mark.parametrize(
    ("allowed", "gpus", "threads"), [(3, (), "3"), (6, ("0", "1"), "3"), (1, ("0", "1"), "1")]
)
def test_threads_follow_the_quota_unless_the_job_says_how_many(
    allowed: int, gpus: tuple[str, ...], threads: str, scratch: Scratch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(module, "usable_cpus", lambda: allowed)
    assert prepare(job(), scratch, Slot(gpus), SETTINGS).env["OMP_NUM_THREADS"] == threads
    own = prepare(job(env={"OMP_NUM_THREADS": "5"}), scratch, Slot(gpus), SETTINGS)
    assert own.env["OMP_NUM_THREADS"] == "5"
    monkeypatch.setattr(module, "usable_cpus", lambda: 64)
    assert "OMP_NUM_THREADS" not in prepare(job(), scratch, Slot(gpus), SETTINGS).env


def test_cuda_counts_gpus_as_nvml_does_unless_told_otherwise(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    launch = prepare(job(), scratch, Slot(("0",)), SETTINGS)
    assert launch.env["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    own = prepare(job(env={"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}), scratch, Slot(()), SETTINGS)
    assert own.env["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_secrets_come_from_the_worker_by_name(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CannotLaunchError, match="SPECTRAIN_SECRET_HF_TOKEN"):
        prepare(job(secrets=["HF_TOKEN"]), scratch, Slot(()), SETTINGS)
    monkeypatch.setenv("SPECTRAIN_SECRET_HF_TOKEN", "value")
    assert (
        prepare(job(secrets=["HF_TOKEN"]), scratch, Slot(()), SETTINGS).env["HF_TOKEN"] == "value"
    )


def test_a_job_that_asks_for_more_gpus_than_the_slot_has_is_told_so(scratch: Scratch) -> None:
    with pytest.raises(CannotLaunchError, match=r"requests 2 GPUs.* owns 1"):
        prepare(job(resources={"gpus": 2}), scratch, Slot(("0",)), SETTINGS)


def test_the_workload_gets_its_settings_with_the_jobs_checkpoint_rule(scratch: Scratch) -> None:
    spec = {"command": None, "train": {"steps": 7}, "checkpoint": {"every_steps": 3}}
    launch = prepare(job(**spec), scratch, Slot(()), SETTINGS)
    assert launch.command[:4] == [sys.executable, "-P", "-m", "spectral_gpt"]
    config = json.loads(Path(launch.command[5]).read_text())
    assert (config["steps"], config["checkpoint"]["every_steps"]) == (7, 3)
