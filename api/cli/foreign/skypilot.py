"""A task of SkyPilot (https://docs.skypilot.co/en/latest/reference/yaml-spec.html)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from api.cli.foreign.result import (
    NO_REPOSITORY,
    ForeignError,
    Translation,
    is_one,
    items,
    mapping,
    name_of,
)

# What SkyPilot sets for a task on one node; scripts refer to it.
_VARIABLES = {
    "SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "127.0.0.1",
}  # fmt: skip
_GPUS_VARIABLE = "SKYPILOT_NUM_GPUS_PER_NODE"
# A whole bucket is no input: it has to be a prefix.
_URL = re.compile(r"(s3://[^/]+/.|https://.|file://.)")
_STRICT = "it stops at the first command that fails, as `bash -euo pipefail` does"


def translated(task: Mapping[str, Any]) -> Translation:
    """The job that a task says; raises `ForeignError`."""
    if "service" in task:
        raise ForeignError("it is a service, and a job here is a program that ends")
    new, left = Translation(), dict(task)
    if name := name_of(left.pop("name", None) or ""):
        new.job["name"] = name
    if not is_one(nodes := left.pop("num_nodes", None)):
        new.obstacles.append(f"num_nodes {nodes}: one worker runs a job, with all of its GPUs")
    _workdir(new, left.pop("workdir", None))
    _resources(new, mapping(left.pop("resources", None), "resources"))
    variables = _envs(new, mapping(left.pop("envs", None), "envs"))
    _secrets(new, left.pop("secrets", None))
    _mounts(new, mapping(left.pop("file_mounts", None), "file_mounts"), variables)
    if setup := left.pop("setup", None):
        new.job["setup"] = [str(script) for script in items(setup)]
        new.note("setup", f"each attempt runs it, and {_STRICT}")
    run = left.pop("run", None)
    script = "\n".join(map(str, items(run)))
    if not script.strip():
        raise ForeignError("it has no `run`: a job needs a program")
    new.job["run"] = script
    new.note("run", _STRICT)
    _own_variables(new, f"{script}\n{setup or ''}")
    new.leave_out(left)
    return new


def _workdir(new: Translation, workdir: object) -> None:
    if isinstance(workdir, str):
        new.job["workspace"] = {"path": workdir}
    elif workdir is not None:
        new.obstacles.append(f"workdir: {NO_REPOSITORY}")


def _resources(new: Translation, given: Mapping[str, Any]) -> None:
    left = dict(given)
    found = left.pop("accelerators", None)
    for key in ("any_of", "ordered"):
        choices = [one for one in items(left.get(key)) if isinstance(one, dict)]
        found = found or [one for choice in choices for one in _kinds(choice.get("accelerators"))]
    _accelerators(new, _kinds(found))
    if labels := mapping(left.pop("labels", None), "resources.labels"):
        new.put("labels", **{name_of(key): str(value) for key, value in labels.items()})
    recovery = left.pop("job_recovery", None)
    if isinstance(recovery, dict) and "max_restarts_on_errors" in recovery:
        new.put("retry", max_failures=recovery["max_restarts_on_errors"])
    elif recovery is not None:
        new.note(
            "resources.job_recovery", "left out: a job that loses its worker is always queued again"
        )
    new.leave_out(left, "resources.")


def _kinds(given: object) -> list[str]:
    """Of `H100:8`, `[H100:8, A100:8]`, `{A100:1, V100:1}` or `{A100: 1}`, each with its number."""
    if isinstance(given, dict):
        return [str(kind) if count is None else f"{kind}:{count}" for kind, count in given.items()]
    return [str(one) for one in items(given)]


def _accelerators(new: Translation, choices: list[str]) -> None:
    if not choices:
        return
    pairs = [(kind, count or "1") for kind, _, count in (one.partition(":") for one in choices)]
    kinds = " or ".join(dict.fromkeys(kind for kind, _ in pairs))
    if len({count for _, count in pairs}) > 1:
        new.note("resources.accelerators", "the number is that of the first choice")
    new.take_gpus("resources.accelerators", pairs[0][1], kinds)


def _envs(new: Translation, envs: Mapping[str, Any]) -> dict[str, str]:
    """The variables that have a value; the others have to be given when it is submitted."""
    known = {name: str(value) for name, value in envs.items() if value not in (None, "")}
    if known:
        new.put("env", **known)
    for name in envs.keys() - known.keys():
        new.note(f"envs.{name}", f"it has no value: `--env {name}=VALUE` gives one")
    return known


def _secrets(new: Translation, secrets: object) -> None:
    names = list(secrets) if isinstance(secrets, dict | list) else []
    if names:
        new.job["secrets"] = [str(name) for name in names]
        new.note("secrets", "only their names are sent; the workers hold the values")


def _mounts(new: Translation, mounts: Mapping[str, Any], variables: Mapping[str, str]) -> None:
    for place, given in mounts.items():
        key = f"file_mounts.{place}"
        source = given.get("source") if isinstance(given, dict) else given
        if source is None:
            new.note(key, "left out: what the program writes to its working directory or to "
                     "$SPECTRAIN_RUN_DIR is kept")  # fmt: skip
            continue
        text = _filled(str(source), variables)
        name = _input_name(str(place), new.job.get("inputs", {}))
        if not _URL.match(text):
            new.note(key, f"left out: {text} is none of s3://bucket/prefix, https:// and file://; "
                     "of this machine the workspace is sent")  # fmt: skip
            continue
        new.put("inputs", **{name: text})
        new.note(key, f"it lies, read-only, at $SPECTRAIN_INPUTS/{name}: change `run` accordingly")


def _filled(text: str, variables: Mapping[str, str]) -> str:
    """A text with the variables of the task in it, as SkyPilot fills them in."""
    return re.sub(r"\$\{?(\w+)\}?", lambda match: variables.get(match[1], match[0]), text)


def _input_name(place: str, taken: Mapping[str, Any]) -> str:
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(place).name).strip("-") or "data"
    names = (base if number == 1 else f"{base}-{number}" for number in range(1, 1000))
    return next(name for name in names if name not in taken)


def _own_variables(new: Translation, scripts: str) -> None:
    """Sets the variables of SkyPilot that the scripts name: an unset one would end them."""
    gpus = new.job.get("resources", {}).get("gpus", 0)
    known = {**_VARIABLES, _GPUS_VARIABLE: str(gpus)}
    used = {name: value for name, value in known.items() if name in scripts}
    if used:
        new.job["env"] = {**used, **new.job.get("env", {})}
    for name in sorted(set(re.findall(r"\bSKYPILOT_\w+", scripts)) - known.keys()):
        new.note(name, "SkyPilot sets it, and nothing does here: change the scripts")
