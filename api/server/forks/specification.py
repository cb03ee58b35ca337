"""The specification of a fork: that of its source, with some keys changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from api.schemas import FieldError, ForkRequest
from api.server.problems import InvalidInputError
from api.validation import field_errors
from jobs.model.spec import JobSpec
from jobs.model.words import SUBMITTED
from workload.refusals import shorten
from workload.settings import FIXED_IN_A_RUN


def forked_spec(spec: JobSpec, fork: ForkRequest, *, is_own: bool) -> JobSpec:
    """The specification with the keys that `fork` sets; raises `InvalidInputError`.

    What a job of somebody else tells, it tells their services: a fork by another account does not.
    """
    tree = spec.model_dump(mode="json")
    if not is_own:
        tree["notify"] = JobSpec.model_fields["notify"].get_default(call_default_factory=True)
    for key, value in fork.set.items():
        _put(tree, key, value)
    if fork.name is not None:
        tree["name"] = fork.name
    try:
        changed = JobSpec.model_validate_json(json.dumps(tree), context=SUBMITTED)
    except ValidationError as error:
        raise InvalidInputError(field_errors(JobSpec, error)) from None
    _check_what_stays(spec, changed)
    return changed


def check_steps(spec: JobSpec, step: int | None) -> None:
    """Raises `InvalidInputError` if there is nothing left to train after a checkpoint."""
    if spec.train is not None and step is not None and spec.train.steps <= step + 1:
        allowed = f"more than {step + 1}: the checkpoint has {step + 1} steps already"
        raise _refused("train.steps", spec.train.steps, allowed)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a key such as `train.optimizer.lr`; the name of a label or a curve may have dots."""
    node, path = tree, key
    while path not in node and "." in path:
        name, _, path = path.partition(".")
        below = node.get(name)
        if below is None:
            below = node[name] = {}
        if not isinstance(below, dict):
            raise _refused(key, value, f"a key of the job: {name} has no keys below it")
        node = below
    node[path] = value


def _check_what_stays(before: JobSpec, after: JobSpec) -> None:
    """Refuses what the built-in workload cannot change in the middle of a run."""
    if before.train is None or after.train is None:
        return
    old, new = (_leaves(spec.train.model_dump()) for spec in (before, after) if spec.train)
    for name, value in old.items():
        if name.startswith(FIXED_IN_A_RUN) and new[name] != value:
            allowed = f"{shorten(value)}, which the checkpoint was made with"
            raise _refused(f"train.{name}", new[name], allowed)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _refused(field: str, given: Any, allowed: str) -> InvalidInputError:
    return InvalidInputError([FieldError(field=field, given=shorten(given), allowed=allowed)])
