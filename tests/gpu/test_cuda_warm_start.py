"""On a CUDA device: children of the fork server use it, one after the other and two at once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from worker.launch.child import Child
from worker.launch.fork_client import ForkServerClient

pytestmark = pytest.mark.gpu

SCRIPT = """
import sys
assert "torch" in sys.modules
import torch
assert not torch.cuda.is_initialized()
x = torch.rand(512, 512, device="cuda", requires_grad=True)
(x @ x).sum().backward()
print(x.grad.isfinite().all().item())
"""


@pytest.fixture(autouse=True)
def _device() -> None:
    assert torch.cuda.is_available(), "torch finds no CUDA device here"


@pytest.fixture
def env() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PATH": path}


@pytest.fixture
def warm(env: dict[str, str]) -> Iterator[ForkServerClient]:
    warm = ForkServerClient(env)
    assert warm.wait_until_ready(120)
    yield warm
    warm.close()


def test_children_use_the_device_and_the_fork_server_never_does(
    warm: ForkServerClient, env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "s.py").write_text(SCRIPT)
    for turn in range(3):
        ended = [threading.Event(), threading.Event()]
        outputs = [tmp_path / f"{turn}-{n}" for n in range(2)]
        children = [
            Child(["python", "s.py"], env=env, cwd=tmp_path, output=output, on_exit=event.set,
                  start=warm.start)
            for output, event in zip(outputs, ended, strict=True)
        ]  # fmt: skip
        assert all(event.wait(120) for event in ended)
        assert [child.exit_code for child in children] == [0, 0], outputs[0].read_text()
        assert {output.read_text() for output in outputs} == {"True\n"}
    links = [str(link.readlink()) for link in Path(f"/proc/{warm.server_pid}/fd").iterdir()]
    assert not [link for link in links if link.startswith("/dev/nvidia")]
