"""A task of dstack (https://dstack.ai/docs/reference/dstack.yml/task)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from api.cli.foreign.result import ForeignError, Translation, is_one, items, mapping, name_of
from api.cli.shared.durations import seconds_of

_VARIABLES = {
    "DSTACK_NODES_NUM": "1", "DSTACK_NODE_RANK": "0", "DSTACK_MASTER_NODE_IP": "127.0.0.1",
    "DSTACK_NODES_IPS": "127.0.0.1",
}  # fmt: skip
_GPU_VARIABLES = ("DSTACK_GPUS_NUM", "DSTACK_GPUS_PER_NODE")
_SECRET = re.compile(r"\$\{\{\s*secrets\.(\w+)\s*\}\}")
_FILLED_IN = re.compile(r"\$\{\{.*?\}\}")
_PRIORITIES, _OURS = 100, 9
_TASKS = "a job here is a program that ends, as a task is"
# What there is here in place of their other configurations.
_OTHERS = {
    "fleet": "here each machine runs `spectrain worker --pool NAME`",
    "volume": "here a run's files are kept, and `inputs` of a job bring data",
    "gateway": "here nothing is reached through a gateway",
}


def translated(task: Mapping[str, Any]) -> Translation:
    """The job that a task says; raises `ForeignError`."""
    if (kind := task.get("type", "task")) != "task":
        raise ForeignError(f"its type is {kind}: {_OTHERS.get(str(kind), _TASKS)}")
    new, left = Translation(), dict(task)
    left.pop("type", None)
    if name := name_of(left.pop("name", None) or ""):
        new.job["name"] = name
    if not is_one(nodes := left.pop("nodes", None)):
        new.obstacles.append(f"nodes {nodes}: one worker runs a job, with all of its GPUs")
    _workspace(new, items(left.pop("repos", None)), items(left.pop("files", None)))
    _env(new, left.pop("env", None))
    _resources(new, mapping(left.pop("resources", None), "resources"))
    _limits(new, left)
    commands = [str(command) for command in items(left.pop("commands", None))]
    if not commands:
        raise ForeignError("it has no `commands`: a job needs a program")
    new.job["run"] = "\n".join(command.rstrip("\n") for command in commands)
    if setup := items(left.pop("setup", None)):
        new.job["setup"] = [str(command) for command in setup]
        new.note("setup", "each attempt runs it")
    if (folder := left.pop("working_dir", None)) is not None:
        new.note("working_dir", f"left out: begin `commands` with `cd {folder}`")
    for found in sorted(set(_FILLED_IN.findall(new.job["run"]))):
        new.note("commands", f"nothing fills in {found} here: change them")
    _own_variables(new, new.job["run"])
    if left.get("python") is not None:
        version = left.pop("python")
        new.note("python", f"{version} is left out: a job has the Python of its worker, or that at "
                 "`python: /path/to/bin/python`")  # fmt: skip
    new.put("labels", **_labels(left.pop("tags", None)))
    if not new.job["labels"]:
        del new.job["labels"]
    new.leave_out(left)
    return new


def _workspace(new: Translation, repos: list[Any], files: list[Any]) -> None:
    """The directory that the job brings: that of `repos`, or of a single one in `files`."""
    found = [("repos", one) for one in repos] + [("files", one) for one in files]
    for key, given in found:
        if isinstance(given, dict):
            path, place = given.get("local_path"), given.get("path")
        else:
            path, place = _local(str(given))
        if path is None:
            new.obstacles.append(
                f"{key}: a workspace is a directory here, and no repository at a URL"
            )
        elif "workspace" in new.job:
            new.note(key, f"{path} is left out: a job brings one directory")
        else:
            new.job["workspace"] = {"path": str(path)}
            if place:
                new.note(key, f"the job starts in it: it does not lie at {place}")


def _local(text: str) -> tuple[str | None, str]:
    """The two parts of `PATH` or `PATH:PLACE`; None for a URL."""
    path, _, place = text.partition(":")
    return (None, "") if "://" in text or "@" in path else (path, place)


def _env(new: Translation, given: object) -> None:
    pairs: dict[str, Any] = {}
    for one in items(given):
        if isinstance(one, dict):
            pairs.update(one)
        else:
            name, sign, value = str(one).partition("=")
            pairs[name] = value if sign else None
    for name, value in pairs.items():
        if value is not None and not (secret := _SECRET.fullmatch(str(value).strip())):
            if found := _FILLED_IN.search(str(value)):
                new.note(f"env.{name}", f"left out: nothing fills in {found[0]} here; a secret is "
                         "a variable of its own")  # fmt: skip
            else:
                new.put("env", **{str(name): str(value)})
            continue
        new.job.setdefault("secrets", []).append(str(name))
        source = f"the secret {secret[1]}" if value is not None and secret else "your environment"
        new.note(f"env.{name}", f"its value is not sent from {source}: the workers hold it")


def _resources(new: Translation, given: Mapping[str, Any]) -> None:
    left = dict(given)
    gpu = left.pop("gpu", None)
    if isinstance(gpu, dict):
        kinds = " ".join(
            str(one) for key, value in gpu.items() if key != "count" for one in items(value)
        )
        new.take_gpus("resources.gpu", _least(gpu.get("count", 1)), kinds)
    elif gpu is not None:
        parts = str(gpu).replace(" ", "").split(":")
        counts = [part for part in parts if re.fullmatch(r"\d+(\.\.\d*)?|\.\.\d+", part)]
        kinds = " ".join(part for part in parts if part not in counts)
        new.take_gpus("resources.gpu", _least(counts[0] if counts else 1), kinds)
    new.leave_out(left, "resources.")


def _least(count: object) -> str:
    """The smaller end of `2..4`."""
    text = str(count.get("min") or 1) if isinstance(count, dict) else str(count)
    return text.partition("..")[0] or "1"


def _limits(new: Translation, left: dict[str, Any]) -> None:
    longest = left.pop("max_duration", None)
    if not any(longest is one for one in (None, False, True)) and longest != "off":
        seconds = seconds_of(str(longest))
        if seconds is None:
            raise ForeignError(f"max_duration {longest!r} is no duration")
        new.put("limits", run_seconds=seconds)
    if (priority := left.pop("priority", None)) is not None:
        if not isinstance(priority, int) or not 0 <= priority <= _PRIORITIES:
            raise ForeignError(f"priority {priority!r} is not from 0 to {_PRIORITIES}")
        new.job["priority"] = round(priority * _OURS / _PRIORITIES)
        new.note("priority", f"{priority} of 100 became {new.job['priority']} of {_OURS}")
    retry = left.pop("retry", None)
    if retry is False or (isinstance(retry, dict) and "error" not in items(retry.get("on_events"))):
        new.put("retry", max_failures=0)
    if retry:
        new.note("retry", "a job that loses its worker is always queued again, and for any time")


def _labels(tags: object) -> dict[str, str]:
    return {name_of(key): str(value) for key, value in mapping(tags, "tags").items()}


def _own_variables(new: Translation, script: str) -> None:
    """Sets the variables of dstack that the commands name: an unset one would end them."""
    gpus = str(new.job.get("resources", {}).get("gpus", 0))
    known = {**_VARIABLES, **dict.fromkeys(_GPU_VARIABLES, gpus)}
    used = {name: value for name, value in known.items() if name in script}
    if used:
        new.job["env"] = {**used, **new.job.get("env", {})}
    for name in sorted(set(re.findall(r"\bDSTACK_\w+", script)) - known.keys()):
        new.note(name, "dstack sets it, and nothing does here: change the commands")
