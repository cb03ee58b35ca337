"""What importing a part of the API costs, in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(answer.stdout.split())


@pytest.mark.parametrize("module", ["api.server.app", "api.drill.run"])
def test_the_application_loads_neither_torch_nor_numpy_nor_matplotlib(module: str) -> None:
    assert not {"torch", "numpy", "matplotlib"} & loaded_by(module)


@pytest.mark.parametrize("module", ["api.client.client", "api.cli.main"])
def test_client_and_command_line_load_no_part_of_the_service(module: str) -> None:
    assert not {"flask", "redis", "celery", "torch", "numpy"} & loaded_by(module)


def test_the_command_line_loads_the_yaml_reader_only_for_a_file() -> None:
    assert "ruamel.yaml" not in loaded_by("api.cli.main")
