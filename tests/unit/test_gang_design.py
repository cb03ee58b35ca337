"""The objects of the design for several machines have names that an API server accepts."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml

from jobs.model.record import new_job_id
from tests.unit.helm.chart import violations

TEXT = (Path(__file__).parents[2] / "docs/internet-scale.md").read_text()


def block(name: str) -> Any:
    (found,) = re.findall(rf"^```yaml {name}\n(.*?)^```", TEXT, re.M | re.S)
    return yaml.safe_load(found)


JOB_SET, POLICY = block("jobset"), block("gangpolicy")
(GROUP,) = JOB_SET["spec"]["replicatedJobs"]
POD = GROUP["template"]["spec"]["template"]
NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
LABEL = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"


def hashed(job_id: str) -> str:
    return hashlib.sha256(job_id.encode()).hexdigest()[:10]


def test_names_and_labels_fit_also_for_the_longest_id_of_a_job() -> None:
    longest = new_job_id("a_" * 31)
    assert not re.fullmatch(NAME, longest), "so that ids are no names"
    assert re.fullmatch(NAME, f"s-{hashed(longest)}-a10000-node-0-1000")
    job_id = JOB_SET["metadata"]["annotations"]["spectrain/job"]
    assert JOB_SET["metadata"]["name"] == f"s-{hashed(job_id)}-a3"
    for labels in (JOB_SET["metadata"]["labels"], POD["metadata"]["labels"]):
        assert all(re.fullmatch(LABEL, value) for value in labels.values())
        assert labels["spectrain/job"] == hashed(job_id)
    env = {e["name"]: e["value"] for e in POD["spec"]["containers"][0]["env"]}
    assert env["SPECTRAIN_JOB_ID"] == job_id
    assert env["SPECTRAIN_RENDEZVOUS"].startswith(f"{JOB_SET['metadata']['name']}-node-0-0.")


def test_a_gang_keeps_no_other_out_of_its_zone_and_leaves_nothing() -> None:
    assert "exclusive-topology" not in str(JOB_SET)
    assert "kueue.x-k8s.io/podset-required-topology" in POD["metadata"]["annotations"]
    assert JOB_SET["spec"]["ttlSecondsAfterFinished"] > 0


def test_the_members_of_a_gang_may_connect_to_each_other_and_to_no_others() -> None:
    assert list(violations([POLICY], "1.36")) == []
    members = {"matchLabels": POD["metadata"]["labels"]}
    spec = POLICY["spec"]
    assert spec["podSelector"] == members
    assert spec["ingress"] == [{"from": [{"podSelector": members}]}]
    assert spec["egress"] == [{"to": [{"podSelector": members}]}]
