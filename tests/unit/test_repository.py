"""The workflows, the hooks and the guide for contributors fit the project."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def workflow(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    found["on"] = found.pop(True)
    return dict(found)


def steps(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for job in found["jobs"].values():
        yield from job["steps"]


def commands(found: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in steps(found) if "run" in step)


def targets(text: str) -> set[str]:
    """The targets that commands in a text ask of make."""
    return set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.M))


def supported() -> list[str]:
    """The versions of Python that the package's classifiers name."""
    pattern = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    return [match[1] for name in PROJECT["classifiers"] if (match := pattern.fullmatch(name))]


def test_there_is_a_workflow_for_tests_images_chart_and_release() -> None:
    assert [path.stem for path in WORKFLOWS] == ["chart", "ci", "cluster", "images", "release"]


@every_workflow
def test_a_workflow_calls_only_targets_that_the_makefile_has(path: Path) -> None:
    assert targets(commands(workflow(path))) <= TARGETS


def test_the_workflows_call_the_targets_that_hold_the_project() -> None:
    called = {path.stem: targets(commands(workflow(path))) for path in WORKFLOWS}
    assert {"lint", "test"} <= called["ci"]
    assert "image-check" in called["images"]


@every_workflow
def test_a_workflow_names_only_files_that_are_there(path: Path) -> None:
    named = re.findall(r"(?<![\w./-])(?:helm|tests|docs|deploy)/[\w./-]+", commands(workflow(path)))
    for name in named:
        assert (ROOT / name.rstrip("/")).exists(), name


@every_workflow
def test_a_job_ends_in_time_and_may_do_only_what_it_needs(path: Path) -> None:
    found = workflow(path)
    assert found["permissions"] in ({}, {"contents": "read"})
    assert found["concurrency"]["group"]
    for job in found["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 120
        assert "permissions" in job or found["permissions"] == {"contents": "read"}
        writes = {name for name, value in job.get("permissions", {}).items() if value == "write"}
        assert not writes or path.stem == "release"


@every_workflow
def test_an_action_is_pinned_by_its_major_version_and_keeps_no_credentials(path: Path) -> None:
    uses = [step for step in steps(workflow(path)) if "uses" in step]
    assert uses
    for step in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@(release/)?v\d+", step["uses"])
        if step["uses"].startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@every_workflow
def test_no_expression_is_pasted_into_a_shell(path: Path) -> None:
    assert "${{" not in commands(workflow(path)), "pass it by `env`"


def test_ci_tests_each_python_that_the_package_names() -> None:
    tests = workflow(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]
    assert tests["strategy"]["matrix"]["python"] == supported()
    assert PROJECT["requires-python"] == f">={supported()[0]}"


@every_workflow
def test_a_workflow_sets_up_a_python_that_the_package_names(path: Path) -> None:
    for step in steps(workflow(path)):
        version = step.get("with", {}).get("python-version")
        assert version in {None, "${{ matrix.python }}", *supported()}


def test_nothing_is_released_until_a_maintainer_switches_it_on() -> None:
    found = workflow(ROOT / ".github/workflows/release.yml")
    assert found["on"] == {"push": {"tags": ["v*"]}}
    for job in found["jobs"].values():
        assert job["if"] == "vars.RELEASE_ENABLED == 'true'"
    # No secret is stored: PyPI trusts the workflow, and ghcr.io the token of its run.
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


def test_the_release_pushes_each_image_of_the_dockerfile() -> None:
    jobs = workflow(ROOT / ".github/workflows/release.yml")["jobs"]
    images = jobs["images"]["strategy"]["matrix"]["include"]
    assert [(image["target"], image["torch"], image["suffix"]) for image in images] == [
        ("api", "cuda", ""),
        ("worker", "cuda", ""),
        ("worker", "cpu", "-cpu"),
        ("worker-devel", "cuda", ""),
    ]
    (build,) = [s["with"] for s in jobs["images"]["steps"] if "build-push" in s.get("uses", "")]
    assert build["platforms"] == "linux/amd64,linux/arm64"
    assert build["sbom"] is True
    assert build["provenance"] == "mode=max"
    assert "cosign sign" in commands({"jobs": {"images": jobs["images"]}})
    assert jobs["pypi"]["needs"] == ["distribution", "images", "chart"]


def test_each_hook_runs_a_linter_of_the_environment_that_make_lint_runs_too() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    makefile = (ROOT / "Makefile").read_text()
    tools = set()
    for repository in config["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert hook["language"] == "system"
            program = Path(hook["entry"].split()[0])
            assert program.parent == Path(".venv/bin")
            assert Path(sys.executable).with_name(program.name).exists()
            assert f"$(BIN)/{program.name}" in makefile
            tools.add(program.name)
    assert tools == {"ruff", "mypy", "lint-imports", "hadolint"}


def test_the_guide_names_targets_folders_and_files_that_are_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert {"format", "image-check", "lint", "setup", "test"} <= targets(text) <= TARGETS
    folders = set(re.findall(r"^\| `(tests/\w+/)`", text, re.M))
    assert folders == {
        f"tests/{p.name}/" for p in (ROOT / "tests").iterdir() if any(p.rglob("test_*.py"))
    }
    for name in re.findall(r"tests/[\w/]+\.py", text):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_guides_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / name).read_text()):
        assert target.startswith("https://") or (ROOT / target).exists(), target
