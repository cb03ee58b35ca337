"""What the admission policy lets a worker change on a pod, its expressions carried out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import celpy
import pytest

from tests.unit.helm.chart import Object, example, kinds, rendered
from worker.cluster.deletion_cost import ANNOTATION

ENVIRONMENT = celpy.Environment()
POD: Object = {
    "metadata": {
        "name": "worker-1",
        "labels": {"app.kubernetes.io/component": "worker"},
        "annotations": {"kubectl.kubernetes.io/default-container": "worker"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "workers"}],
    },
    "spec": {"containers": [{"name": "worker", "image": "spectrain-worker:0.1.0"}]},
}
WORKER = "system:serviceaccount:ml:prod-spectrain-worker"


def request(user: str = WORKER, pod: str | None = "worker-1") -> Object:
    extra = {} if pod is None else {"authentication.kubernetes.io/pod-name": [pod]}
    return {"userInfo": {"username": user, "extra": extra}}


def holds(expression: str, **variables: Any) -> bool:
    """Its value; an error counts as false, as with `failurePolicy: Fail`."""
    program = ENVIRONMENT.program(ENVIRONMENT.compile(expression))
    try:
        return bool(program.evaluate({k: celpy.json_to_cel(v) for k, v in variables.items()}))
    except celpy.CELEvalError:
        return False


def admitted(new: Object, old: Object, asked: Object) -> bool:
    (policy,) = kinds(rendered(example("spot-keda")), "ValidatingAdmissionPolicy")
    variables = {"object": new, "oldObject": old, "request": asked}
    concerned = all(holds(c["expression"], **variables) for c in policy["spec"]["matchConditions"])
    return not concerned or all(
        holds(v["expression"], **variables) for v in policy["spec"]["validations"]
    )


def with_cost(pod: Object, cost: str) -> Object:
    changed = copy.deepcopy(pod)
    changed["metadata"]["annotations"][ANNOTATION] = cost
    return changed


def test_a_worker_may_set_and_change_the_cost_of_its_pod() -> None:
    dear = with_cost(POD, "100")
    assert admitted(dear, POD, request())
    assert admitted(with_cost(POD, "0"), dear, request())


CHANGES: dict[str, Callable[[Object], Any]] = {
    "image": lambda pod: pod["spec"]["containers"][0].update(image="another"),
    "label": lambda pod: pod["metadata"]["labels"].update({"app.kubernetes.io/component": "api"}),
    "no labels": lambda pod: pod["metadata"].pop("labels"),
    "another annotation": lambda pod: pod["metadata"]["annotations"].update(a="b"),
    "an annotation's value": lambda pod: pod["metadata"]["annotations"].update(
        {"kubectl.kubernetes.io/default-container": "another"}
    ),
    "an annotation less": lambda pod: pod["metadata"]["annotations"].pop(
        "kubectl.kubernetes.io/default-container"
    ),
    "no annotations": lambda pod: pod["metadata"].pop("annotations"),
    "its owner": lambda pod: pod["metadata"].pop("ownerReferences"),
    "a finalizer": lambda pod: pod["metadata"].update(finalizers=["a.example.com/b"]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_worker_may_change_nothing_else_on_its_pod(change: Callable[[Object], Any]) -> None:
    changed = with_cost(POD, "100")
    change(changed)
    assert not admitted(changed, POD, request())


@pytest.mark.parametrize("pod", ["worker-2", None], ids=["another pod's", "no pod's"])
def test_a_token_may_not_change_a_pod_that_is_not_its_own(pod: str | None) -> None:
    assert not admitted(with_cost(POD, "100"), POD, request(pod=pod))


def test_others_are_not_concerned() -> None:
    changed = copy.deepcopy(POD)
    changed["metadata"]["labels"]["a"] = "b"
    assert admitted(
        changed, POD, request("system:serviceaccount:kube-system:replicaset-controller")
    )
