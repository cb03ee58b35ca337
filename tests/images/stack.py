"""Docker and Compose: the images, built once, and docker-compose.yml as a project."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from api.client.client import Client
from api.local.redis_server import free_port
from api.schemas import JobView

ROOT = Path(__file__).parents[2]
API, WORKER = "spectrain-api:check", "spectrain-worker:check-cpu"
# What a build here needs on top, such as `--network host`; of `make image-check BUILD=…`.
_BUILD = shlex.split(os.environ.get("SPECTRAIN_IMAGE_BUILD", ""))


def _base() -> str:
    """The base image: that of the Dockerfile, unless the build is given another one."""
    given = [word.removeprefix("PYTHON=") for word in _BUILD if word.startswith("PYTHON=")]
    (default,) = re.findall(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    return f"python:{[default, *given][-1]}"


BASE = _base()


def run(*command: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command to its end, with what it printed."""
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=1500, check=False, **options
    )
    if check and ended.returncode != 0:
        raise AssertionError(f"{shlex.join(command)}: {ended.stdout}\n{ended.stderr}")
    return ended


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run("docker", *arguments, check=check)


def inside(image: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A command in a container that may do no more than those of docker-compose.yml."""
    return docker(
        *("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp:mode=1777"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", image, *command),
        check=check,
    )


def image(name: str) -> dict[str, Any]:
    """What Docker knows of an image."""
    return dict(json.loads(docker("image", "inspect", name).stdout)[0])


@functools.cache
def build() -> None:
    """Builds both images, the worker's for the CPU."""
    for target, name in (("api", API), ("worker", WORKER)):
        build_target(target, name, ROOT)


def build_target(target: str, name: str, context: Path) -> None:
    """Builds one image of a checkout; a worker's for the CPU."""
    revision = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    arguments = [*_BUILD, "--build-arg", f"REVISION={revision}", "--build-arg", "TORCH=cpu"]
    run(
        *("docker", "build", *arguments, "--target", target, "--tag", name, str(context)),
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
    )


def build_text(dockerfile: str, name: str) -> None:
    """Builds an image from a Dockerfile alone."""
    options = {"input": dockerfile, "env": {**os.environ, "DOCKER_BUILDKIT": "1"}}
    run("docker", "build", *_BUILD, "--tag", name, "-", **options)


class Stack:
    """docker-compose.yml as a project of its own, in a directory of its own with its secrets."""

    def __init__(self, directory: Path, *profiles: str) -> None:
        build()
        self.directory = directory
        shutil.copy(ROOT / "docker-compose.yml", directory)
        for part in ("deploy/compose", "helm/spectrain/files"):
            if (ROOT / part).exists():
                shutil.copytree(ROOT / part, directory / part)
        run("sh", str(directory / "deploy/compose/secrets.sh"))
        self.port = free_port()
        self.profiles = profiles
        self._name = f"spectrain-check-{os.getpid()}-{'-'.join(profiles) or 'plain'}"
        token = (directory / "secrets/api-tokens").read_text().partition(",")[0]
        self.client = Client(f"http://127.0.0.1:{self.port}", token)

    def compose(
        self, *arguments: str, check: bool = True, profiles: tuple[str, ...] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`docker compose …` in its directory."""
        profiles = self.profiles if profiles is None else profiles
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SPECTRAIN_", "AWS_"))},
            "COMPOSE_PROJECT_NAME": self._name,
            "SPECTRAIN_TAG": "check",
            "SPECTRAIN_PORT": str(self.port),
            "SPECTRAIN_LEASE_SECONDS": "5",
        }
        command = ["docker", "compose", *chosen, *arguments]
        return run(*command, check=check, cwd=self.directory, env=environment)

    def up(self) -> None:
        """Starts everything; returns when all that can say so says that it is well."""
        ended = self.compose("up", "--detach", "--wait", "--no-build", check=False)
        assert ended.returncode == 0, f"{ended.stderr}\n{self.compose('logs').stdout}"

    def end(self) -> None:
        """Removes containers, networks and volumes."""
        self.client.close()
        every = ("gpu", "monitoring", "s3")  # or their volumes stay
        self.compose("down", "--volumes", "--timeout", "20", check=False, profiles=every)

    def containers(self) -> dict[str, dict[str, Any]]:
        """What Docker knows of each container, by its service."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        found = json.loads(docker("inspect", *ids).stdout)
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def exec(self, service: str, *command: str) -> str:
        """What a command prints in the container of a service."""
        return self.compose("exec", "-T", service, *command).stdout

    def losses(self, job: JobView) -> list[tuple[int, str]]:
        """Step and loss of every row of the fetched metrics.jsonl, the loss as it is written."""
        target = self.directory / "fetched" / job.id
        self.client.fetch(job.id, target)
        path = target / "logs/metrics.jsonl"
        rows = [json.loads(line, parse_float=str) for line in path.read_text().splitlines()]
        return [(row["step"], row["loss"]) for row in rows]
