"""Tasks of SkyPilot and dstack become jobs of this service, or a sentence says why not."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cli.foreign import ForeignError, Translation, translate
from api.cli.main import cli
from api.cli.spec_file import SpecFileError, checked, read_data, read_spec
from jobs.model.elsewhere import ELSEWHERE

SKY = b"""
name: My_Task
workdir: ~/code
num_nodes: 1
resources:
  infra: aws/us-east-1
  accelerators: H100:8
  cpus: 32+
  use_spot: true
  labels: {Project: llm}
  job_recovery: {strategy: FAILOVER, max_restarts_on_errors: 3}
envs:
  MODEL_SIZE: 13b
  LR: 3e-4
  HF_USER:
secrets:
  HF_TOKEN: null
  WANDB_API_KEY: abc
file_mounts:
  /datasets-s3: s3://my-awesome/${MODEL_SIZE}
  /remote/path: /local/path
  /all: s3://whole-bucket
  /checkpoints: {source: "s3://existing/a", mode: MOUNT}
setup: |
  pip install -r requirements.txt
run: |
  torchrun --nproc-per-node=$SKYPILOT_NUM_GPUS_PER_NODE train.py
  echo $SKYPILOT_TASK_ID
config: {docker: {}}
"""
DSTACK = b"""
type: task
name: train
python: 3.12
nodes: 1
repos: [..]
files: [requirements.txt]
env:
  - HF_TOKEN
  - LR=3e-4
  - KEY=${{ secrets.my_key }}
commands:
  - uv pip install -r requirements.txt
  - python train.py --gpus $DSTACK_GPUS_NUM
resources:
  cpu: 16..
  gpu: 80GB..:2
  disk: 200GB
max_duration: 1h 30m
priority: 50
retry: {on_events: [no-capacity, interruption], duration: 1h}
spot_policy: auto
tags: {Team: nlp}
backends: [aws]
"""


def translated(text: bytes) -> Translation:
    return translate(read_data(text))


def without_note(found: Translation) -> set[str]:
    return {note.partition(":")[0] for note in found.notes}


def test_a_task_of_skypilot_becomes_a_job() -> None:
    found = translated(SKY)
    assert not found.obstacles
    job = dict(found.job)
    assert job.pop("workspace") == {"path": "~/code"}
    spec = checked(job)
    assert spec.name == "my_task"
    assert spec.resources.gpus == 8
    assert spec.env == {"MODEL_SIZE": "13b", "LR": "3e-4", "SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    assert spec.secrets == ["HF_TOKEN", "WANDB_API_KEY"]
    assert spec.inputs == {"datasets-s3": "s3://my-awesome/13b", "checkpoints": "s3://existing/a"}
    assert spec.setup == ["pip install -r requirements.txt\n"]
    assert spec.run is not None
    assert spec.run.startswith("torchrun")
    assert spec.retry.max_failures == 3
    assert spec.labels == {"project": "llm"}


def test_what_has_no_meaning_here_is_named() -> None:
    assert without_note(translated(SKY)) >= {
        "resources.infra", "resources.cpus", "resources.use_spot", "resources.accelerators",
        "envs.HF_USER", "secrets", "file_mounts./remote/path", "file_mounts./all",
        "file_mounts./datasets-s3",
        "setup", "run", "config", "SKYPILOT_TASK_ID",
    }  # fmt: skip
    assert without_note(translated(DSTACK)) >= {
        "python", "files", "env.HF_TOKEN", "env.KEY", "resources.cpu", "resources.disk",
        "resources.gpu", "retry", "spot_policy", "backends", "priority",
    }  # fmt: skip
    assert "abc" not in str(translated(SKY)), "the value of a secret is neither sent nor printed"


def test_a_task_of_dstack_becomes_a_job() -> None:
    found = translated(DSTACK)
    assert not found.obstacles
    job = dict(found.job)
    assert job.pop("workspace") == {"path": ".."}
    spec = checked(job)
    assert spec.name == "train"
    assert spec.run == "uv pip install -r requirements.txt\npython train.py --gpus $DSTACK_GPUS_NUM"
    assert spec.resources.gpus == 2
    assert spec.env == {"LR": "3e-4", "DSTACK_GPUS_NUM": "2"}
    assert spec.secrets == ["HF_TOKEN", "KEY"]
    assert spec.limits.run_seconds == 5400
    assert spec.priority == 4
    assert spec.retry.max_failures == 0
    assert spec.labels == {"team": "nlp"}


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        ("A100:4", 4), ("A100", 1), (["L4:1", "H100:1"], 1), ({"A100:2": None}, 2),
        ({"A100": 8}, 8), ("A100:0.5", 1),
    ],
    ids=str,
)  # fmt: skip
def test_each_form_of_accelerators_is_a_number_of_gpus(given: Any, gpus: int) -> None:
    found = translate({"run": "true", "resources": {"accelerators": given}})
    assert found.job["resources"] == {"gpus": gpus}


@pytest.mark.parametrize(
    ("given", "gpus"),
    [
        (4, 4), ("A100", 1), ("A100:2", 2), ("A100:40GB:2", 2), ("80GB:2", 2), ("2..4", 2),
        ("H100,A100:1", 1), ({"name": "A100", "count": 3}, 3), ({"count": "2..8"}, 2),
        ({"count": {"min": 2, "max": 3}}, 2),
    ],
    ids=str,
)  # fmt: skip
def test_each_form_of_gpu_is_a_number_of_gpus(given: Any, gpus: int) -> None:
    found = translate({"type": "task", "commands": ["true"], "resources": {"gpu": given}})
    assert found.job["resources"] == {"gpus": gpus}


@pytest.mark.parametrize("key", ["any_of", "ordered"])
def test_a_choice_of_resources_has_the_gpus_of_the_first(key: str) -> None:
    choices = [{"accelerators": "H100:8", "use_spot": True}, {"accelerators": {"A100-80GB": 8}}]
    found = translate({"run": "a", "resources": {"cpus": "8+", key: choices}})
    assert found.job["resources"] == {"gpus": 8}
    assert without_note(found) >= {f"resources.{key}", "resources.accelerators", "resources.cpus"}
    assert "H100 or A100-80GB is left out" in str(found.notes)


def test_what_another_service_fills_in_is_named_and_not_taken_as_it_stands() -> None:
    found = translate({
        "type": "task", "commands": ["train ${{ run.args }}"],
        "env": ["A=1", {"B": "${{ secrets.b }}"}, "C=Bearer ${{ secrets.c }}"],
        "files": [".:src"], "working_dir": "src", "setup": ["uv sync"],
    })  # fmt: skip
    assert found.job["env"] == {"A": "1"}
    assert found.job["secrets"] == ["B"]
    assert found.job["setup"] == ["uv sync"]
    assert without_note(found) >= {"env.B", "env.C", "commands", "files", "working_dir", "setup"}


def test_a_bucket_to_write_to_is_no_input() -> None:
    mounts = {"/out": {"name": "b", "mode": "MOUNT"}, "/in": "$DATA/x", "/code": "./src"}
    task = {"run": ["a", "b"], "num_nodes": "1", "envs": {"DATA": "s3://b"}, "file_mounts": mounts}
    found = translate(task)
    assert (found.job["run"], found.obstacles) == ("a\nb", [])
    assert found.job["inputs"] == {"in": "s3://b/x"}
    assert "$SPECTRAIN_RUN_DIR is kept" in next(one for one in found.notes if "/out" in one)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 200) | st.floats() | st.sampled_from(
        ["", "a", "H100:2", "2..", "..", "s3://b/c", "${A}", "${{ secrets.a }}", "1h", "task", "=b"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "count", "source", "accelerators", "gpu", "error", "on_events",
                         "any_of", "labels", "job_recovery", "path", "local_path", "", "A"]),
        inner, max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip
KEYS = sorted(
    {*ELSEWHERE, "run", "setup", "envs", "env", "secrets", "commands", "resources", "retry",
     "type", "name", "tags", "priority", "python"}
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6), st.sampled_from(["run", "commands"])
)
def test_no_task_ends_in_a_traceback(task: dict[str, Any], program: str) -> None:
    with contextlib.suppress(ForeignError):
        found = translate({**task, program: ["a"]})
        with contextlib.suppress(SpecFileError):
            checked({"name": "a", **found.job, "workspace": None})


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ({"run": "a", "service": {"replicas": 2}}, "it is a service"),
        ({"type": "dev-environment", "ide": "vscode"}, "its type is dev-environment"),
        ({"type": "fleet", "nodes": 2}, "its type is fleet: here each machine runs"),
        ({"run": "a", "file_mounts": ["/a"]}, "file_mounts is no mapping"),
        ({"type": "task", "image": "x"}, "no `commands`"),
        ({"envs": {"A": "b"}}, "no `run`"),
        ({"name": "a"}, "neither `run` nor `type`"),
        ([1], "no mapping"),
        ({"run": "a", "envs": [1]}, "envs is no mapping"),
        ({"type": "task", "commands": ["a"], "max_duration": "soon"}, "is no duration"),
        ({"type": "task", "commands": ["a"], "priority": 101}, "is not from 0 to 100"),
    ],
    ids=str,
)
def test_what_cannot_be_a_job_is_refused_in_words(task: Any, says: str) -> None:
    with pytest.raises(ForeignError, match=says):
        translate(task)


def test_a_task_without_a_name_has_that_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "My.sky.yaml").write_text("run: a\n")
    words = ["submit", "--from", str(tmp_path / "My.sky.yaml"), "--dry-run"]
    assert CliRunner().invoke(cli, words).stdout == "name: my-sky\nrun: a\n"


def test_a_pipeline_of_several_tasks_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "sky.yaml").write_text("name: both\n---\nrun: a\n---\nrun: b\n")
    done = CliRunner().invoke(cli, ["submit", "--from", str(tmp_path / "sky.yaml")])
    assert (done.exit_code, done.stderr) == (
        1, "Error: It holds several documents: give each job a file.\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    "task",
    [
        {"run": "a", "num_nodes": 4}, {"type": "task", "commands": ["a"], "nodes": 2},
        {"run": "a", "workdir": {"url": "https://github.com/a/b"}},
        {"type": "task", "commands": ["a"], "repos": ["https://github.com/a/b"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_task_that_would_be_another_one_is_not_submitted(task: Any, tmp_path: Path) -> None:
    assert translate(task).obstacles
    file = tmp_path / "task.yaml"
    file.write_text(str(task))
    done = CliRunner().invoke(cli, ["submit", "--from", str(file)])
    assert done.exit_code == 1
    assert "would become another job than it is" in done.stderr


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRAIN_URL", "http://127.0.0.1:1")


@pytest.mark.parametrize("text", [SKY, DSTACK], ids=["skypilot", "dstack"])
def test_the_job_file_that_is_printed_is_one(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Path("task.yaml").write_bytes(text.replace(b"~/code", b"."))
    done = CliRunner().invoke(cli, ["submit", "--from", "task.yaml", "--dry-run"])
    assert done.exit_code == 0, done.stderr
    found = dict(translated(text).job)
    del found["workspace"]
    printed = read_data(done.stdout.encode())
    assert printed.pop("workspace")["path"] in {".", ".."}
    assert checked(printed) == checked(found)
    assert "run: |" in done.stdout, "a script is written line by line"
    *notes, last = done.stderr.splitlines()
    assert len(notes) >= len(translated(text).notes)
    assert last.startswith("What would become of it is not known: No service answers")


def test_options_replace_what_the_task_says(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_bytes(b"name: a\nenvs: {A: b, B: }\nrun: train $A $B\n")
    words = ["--from", str(tmp_path / "task.yaml"), "--dry-run", "-e", "B=c", "--name", "other"]
    done = CliRunner().invoke(cli, ["submit", *words, "--gpus", "2"])
    spec = read_spec(done.stdout.encode())
    assert (spec.name, spec.env, spec.resources.gpus) == ("other", {"A": "b", "B": "c"}, 2)


def test_a_task_given_as_a_job_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_bytes(SKY)
    done = CliRunner().invoke(cli, ["submit", str(tmp_path / "task.yaml")])
    assert done.exit_code == 1
    assert "`spectrain submit --from " in done.stderr
    assert "envs: given" in done.stderr
    assert "here it is `env: {NAME: value}`" in done.stderr
