"""Keys that other schedulers have at the top of a job, and what does the same here."""

from __future__ import annotations

from collections.abc import Mapping

_WORKSPACE = "here it is `workspace: {path: .}`"
_GPUS = "here it is `resources: {gpus: N}`"
_ENV = "here it is `env: {NAME: value}`"
_POOL = "here it is `resources: {pool: NAME}`: the workers of a pool are alike"
_SECONDS = "here it is `limits: {run_seconds: SECONDS}`"
_COMMAND = 'here it is `command: ["python", "train.py"]`, or a script in `run`'
_FAILURES = "here it is `retry: {max_failures: 2}`"
_ONE_WORKER = (
    "nothing: one worker runs a job; `resources: {gpus: N}` gives it several GPUs, for `torchrun` "
    "in its command"
)
_ENVIRONMENT = "here it is `environment: requirements.txt`, a file of the workspace"
_INPUTS = "here it is `inputs: {data: s3://bucket/prefix}`, which lies at `$SPECTRAIN_INPUTS/data`"
_IMAGE = "nothing: a job runs in the image of the worker that `resources: {pool: NAME}` chooses"
_MACHINE = "nothing: processors and memory are those of the worker's machine; choose a pool"
_PLACE = "nothing: a job runs where the workers are; `resources: {pool: NAME}` chooses some"
_IDLE = "nothing: workers come and go by themselves, and no job starts or stops a machine"
_PORTS = "nothing: a job is reached through its log, its metrics and its files, and by no port"
_SPOT = (
    "nothing: a worker on a spot machine needs no word in a job; `preemptible` says whether a "
    "job of higher priority may evict this one"
)
_CHOICE = "nothing: a job names one pool, whose workers are alike; it waits for one of them"

# At the top of a job.
ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(
        ("workdir", "working_dir", "work_dir", "cwd", "chdir", "code", "source_dir", "code_dir"),
        _WORKSPACE,
    ),
    **dict.fromkeys(("gpus", "num_gpus", "gpu", "n_gpus", "gpus_per_node", "gres"), _GPUS),
    "accelerators": f"{_GPUS}; {_POOL.removeprefix('here it is ')}",
    **dict.fromkeys(("envs", "env_vars", "environment_variables", "runtime_env"), _ENV),
    **dict.fromkeys(("pool", "partition", "queue", "cluster", "instance_type"), _POOL),
    **dict.fromkeys(
        ("num_nodes", "nodes", "replicas", "num_workers", "world_size", "ntasks"), _ONE_WORKER
    ),
    **dict.fromkeys(
        ("entrypoint", "cmd", "script", "args", "program", "commands", "task"),
        f"{_COMMAND}; did you mean `command`?",
    ),
    **dict.fromkeys(("image", "image_id", "container", "docker", "docker_image"), _IMAGE),
    **dict.fromkeys(("cpus", "num_cpus", "memory", "mem", "disk_size"), _MACHINE),
    **dict.fromkeys(
        ("time", "timeout", "time_limit", "max_duration", "walltime", "timeout_min"), _SECONDS
    ),
    **dict.fromkeys(("max_restarts", "max_retries", "retries", "backoff_limit"), _FAILURES),
    **dict.fromkeys(("requirements", "pip", "packages", "dependencies", "uv"), _ENVIRONMENT),
    **dict.fromkeys(
        ("conda", "conda_env", "venv", "interpreter", "python_version"),
        "here it is `python: /path/to/bin/python`, an interpreter that the worker has",
    ),
    **dict.fromkeys(("file_mounts", "datasets", "data", "mounts", "volumes"), _INPUTS),
    **dict.fromkeys(
        ("init", "prepare", "before_script", "pre_run"), "here it is `setup: [COMMAND, ...]`"
    ),
    "tags": "here it is `labels: {key: value}`",
    "project": "here it is a label: `labels: {project: NAME}`",
    **dict.fromkeys(("spot", "use_spot", "spot_policy", "preemptible_instances"), _SPOT),
    **dict.fromkeys(
        (
            "infra",
            "cloud",
            "region",
            "regions",
            "zone",
            "backends",
            "availability_zones",
            "fleets",
            "instance_types",
            "instances",
            "reservation",
            "max_price",
        ),
        _PLACE,
    ),
    **dict.fromkeys(
        (
            "autostop",
            "idle_duration",
            "creation_policy",
            "termination_policy",
            "utilization_policy",
            "inactivity_duration",
        ),
        _IDLE,
    ),
    **dict.fromkeys(("ports", "service", "gateway", "ide"), _PORTS),
    **dict.fromkeys(("repos", "files"), _WORKSPACE),
    "stop_duration": "nothing: the grace of a job that stops is SPECTRAIN_GRACE_SECONDS of workers",
    "type": "nothing: every job is a task",
    **dict.fromkeys(
        ("outputs", "output_dir", "artifacts"),
        "nothing: what the program writes to its working directory, `$SPECTRAIN_RUN_DIR` or "
        "`$SPECTRAIN_OUTPUT_DIR` is kept",
    ),
}

# In its `resources`.
RESOURCES: Mapping[str, str] = {
    **dict.fromkeys(
        ("gpu", "num_gpus", "accelerators", "gpus_per_node"),
        "here it is `gpus: 1`, a number; `pool: NAME` chooses workers of a kind",
    ),
    **dict.fromkeys(("cpu", "cpus", "num_cpus", "memory", "mem", "shm_size"), _MACHINE),
    **dict.fromkeys(
        ("disk", "disk_size", "disk_tier"),
        "nothing: a job writes to the worker's disk; `limits: {disk_bytes: N}` limits it",
    ),
    **dict.fromkeys(
        (
            "infra",
            "cloud",
            "region",
            "zone",
            "instance_type",
            "network_tier",
            "max_hourly_cost",
            "accelerator_args",
        ),
        _PLACE,
    ),
    **dict.fromkeys(("any_of", "ordered"), _CHOICE),
    **dict.fromkeys(("image_id", "image"), _IMAGE),
    **dict.fromkeys(("use_spot", "spot"), _SPOT),
    **dict.fromkeys(("autostop", "autodown"), _IDLE),
    "ports": _PORTS,
    "labels": "here they stand at the top: `labels: {key: value}`",
    **dict.fromkeys(("job_recovery", "spot_recovery"), f"{_FAILURES}, at the top"),
    "num_nodes": _ONE_WORKER,
}
