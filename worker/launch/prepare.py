"""Prepares the command, environment and working directory of a training process."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import SpectrainError
from jobs.model.record import Job
from jobs.model.references import ExpansionError, expand_command, expand_variables
from jobs.model.spec import JobSpec
from jobs.settings import Settings
from machine.cpus import usable_cpus
from machine.gpus import usable_gpus
from machine.ownership import give
from machine.python import python_module
from worker.files.scratch import Scratch
from worker.launch.command import Launch
from worker.launch.inherited import inherited
from worker.launch.user import JobUser

SECRET_PREFIX = "SPECTRAIN_SECRET_"  # noqa: S105 - the prefix of a name


class CannotLaunchError(SpectrainError):
    """This worker cannot run the job; the message says what to change."""


@dataclass(frozen=True)
class Slot:
    """The GPUs that one worker owns, named as in CUDA_VISIBLE_DEVICES, or none."""

    gpus: tuple[str, ...]

    @classmethod
    def of_this_process(cls, device: str) -> Slot:
        """The GPUs that this process may use; raises `CannotLaunchError` for `cuda` without one."""
        gpus = () if device == "cpu" else usable_gpus()
        if device == "cuda" and not gpus:
            raise CannotLaunchError("SPECTRAIN_DEVICE is cuda, but there is no GPU on this machine")
        return cls(gpus)


def base_environment(
    slot: Slot, settings: Settings, programs: Path | None = None, user: JobUser | None = None
) -> dict[str, str]:
    """The environment of every job of this worker, unless the job overrides it.

    `programs`: the directory that the job's Python and its programs lie in, if it has its own;
    `user`: the one that its jobs run as, if it is not the worker's.
    """
    own = Path(sys.executable).parent
    return {
        # torchrun would kill its ranks 30 s after the stop signal.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(settings.grace_seconds)),
        # Threads that spin while they wait take the cores from other processes and from each
        # other: on two shared cores a run took five times as long.
        **({} if slot.gpus else {"OMP_WAIT_POLICY": "PASSIVE"}),
        # The order of NVML and nvidia-smi; CUDA's own sorts by speed.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **_threads(slot),
        **inherited(os.environ, settings.job_env),
        **(user.environment if user is not None else {}),
        "PYTHONUNBUFFERED": "1",
        # A command's `python` is the interpreter with torch and the monitoring library.
        "PATH": _joined(
            *dict.fromkeys(str(path) for path in (programs or own, own)),
            os.environ.get("PATH", os.defpath),
        ),
        **_fixed_environment(slot),
    }


def _threads(slot: Slot) -> dict[str, str]:
    """As many threads as processors, where a control group allows fewer than there are.

    MKL, OpenBLAS and numexpr take theirs from this variable too, unless they have one of their own.
    Each GPU may have a process.
    """
    allowed = usable_cpus()
    if allowed >= len(os.sched_getaffinity(0)):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, allowed // max(1, len(slot.gpus))))}


def prepare(
    job: Job,
    scratch: Scratch,
    slot: Slot,
    settings: Settings,
    *,
    resumed: bool = False,
    programs: Path | None = None,
    virtual_env: Path | None = None,
    user: JobUser | None = None,
) -> Launch:
    """The launch of the job's current attempt; writes the built-in workload's settings.

    `resumed`: the attempt has something to go on from. `programs`: see `base_environment`;
    `virtual_env` is the environment that they belong to. Raises `CannotLaunchError`.
    """
    wanted, pool = job.spec.resources.gpus, job.spec.resources.pool
    if wanted > len(slot.gpus):
        raise CannotLaunchError(
            f"the job requests {wanted} GPU{'' if wanted == 1 else 's'}, and a worker of pool "
            f"{pool!r} owns {len(slot.gpus)}; change resources.gpus or resources.pool"
        )
    base = base_environment(slot, settings, programs, user)
    ours = {
        **_secrets(job.spec.secrets, os.environ),
        **_fixed_environment(slot),
        "SPECTRAIN_JOB_ID": job.id,
        "SPECTRAIN_ATTEMPT": str(job.attempt),
        "SPECTRAIN_RESUMED": "1" if resumed else "0",
        **_origin(job),
        "SPECTRAIN_RUN_DIR": str(scratch.run.root),
        "SPECTRAIN_OUTPUT_DIR": str(scratch.output_dir),
        **({"SPECTRAIN_INPUTS": str(scratch.inputs)} if job.spec.inputs else {}),
        **({"VIRTUAL_ENV": str(virtual_env)} if virtual_env is not None else {}),
        "SPECTRAIN_STEP_FILE": str(scratch.steps),
        "SPECTRAIN_GRACE_SECONDS": f"{settings.grace_seconds:g}",
        "SPECTRAIN_DEVICE": "cuda" if slot.gpus else "cpu",
    }
    try:
        own = expand_variables(job.spec.env, {**base, **ours}.get)
        env = {**base, **own, **ours}
        if not env["PATH"].endswith(base["PATH"]):
            env["PATH"] = _joined(env["PATH"], base["PATH"])
        command = _command(job, scratch, env, resumed)
    except ExpansionError as error:
        raise CannotLaunchError(str(error)) from None
    stop_signal = signal.Signals[job.spec.stop_signal]
    return Launch(command, env, scratch.workspace, stop_signal)


def _origin(job: Job) -> dict[str, str]:
    origin = job.forked_from
    return {} if origin is None else {"SPECTRAIN_FORKED_FROM": origin.model_dump_json()}


def _command(job: Job, scratch: Scratch, env: Mapping[str, str], resumed: bool) -> list[str]:
    if job.spec.train is None:
        scratch.output_dir.mkdir(exist_ok=True)
        give(scratch.output_dir, scratch.owner)
        return _program(job.spec, env, resumed)
    config = job.spec.train.model_dump(mode="json")
    config["checkpoint"] = job.spec.checkpoint.model_dump(mode="json")
    scratch.train_config.write_text(json.dumps(config))
    give(scratch.train_config, scratch.owner)
    options = ["--config", str(scratch.train_config), "--run-dir", str(scratch.run.root)]
    return python_module("spectral_gpt", *options)


def _program(spec: JobSpec, env: Mapping[str, str], resumed: bool) -> list[str]:
    words = spec.program(resumed=resumed)
    if spec.run is None or words[-1] != spec.run:
        return expand_command(words, env, {*spec.env, *spec.secrets})
    if shutil.which(words[0], path=env["PATH"]) is None:
        raise CannotLaunchError(
            "`run` needs bash, and this worker has none: install bash where the worker runs, or "
            'give `command: ["sh", "-c", "…"]`'
        )
    return words


def _fixed_environment(slot: Slot) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": ",".join(slot.gpus)}


def _joined(*paths: str) -> str:
    """A search path; an empty one would be the working directory."""
    return os.pathsep.join(filter(None, paths))


def _secrets(names: list[str], environment: Mapping[str, str]) -> dict[str, str]:
    missing = [name for name in names if SECRET_PREFIX + name not in environment]
    if missing:
        raise CannotLaunchError(
            f"this worker has no secret named {', '.join(missing)}; "
            f"set {SECRET_PREFIX}{missing[0]} in the worker's environment"
        )
    return {name: environment[SECRET_PREFIX + name] for name in names}
