"""Which commands can run in a forked interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from worker.launch.command import Launch
from worker.launch.program import Program, is_shadowed, read_at_start

OWN = Path(sys.executable)


def program(*command: str) -> Program | None:
    return Program.of(Launch(list(command), {"PATH": f"{OWN.parent}:/usr/bin:/bin"}, Path("/")))


@pytest.mark.parametrize("python", ["python", "python3", str(OWN)])
def test_scripts_and_modules_of_this_python_are_programs(python: str) -> None:
    script = program(python, "-u", "train.py", "-m", "x")
    assert script is not None
    assert (script.script, script.module, script.arguments) == ("train.py", None, ["-m", "x"])
    assert Path(script.executable).parent == OWN.parent
    module = program(python, "-m", "a.b", "--lr", "1")
    assert module is not None
    assert (module.script, module.module, module.arguments) == (None, "a.b", ["--lr", "1"])
    assert module.command == [python, "-m", "a.b", "--lr", "1"]
    assert not module.safe_path
    safe = program(python, "-u", "-P", "train.py", "-P")
    assert safe is not None
    assert (safe.script, safe.arguments, safe.safe_path) == ("train.py", ["-P"], True)


@pytest.mark.parametrize(
    "command",
    [
        ["sh", "-c", "python train.py"],
        ["/usr/bin/python3", "train.py"],
        ["./python", "train.py"],
        ["python"],
        ["python", "-m"],
        ["python", "-O", "train.py"],
        ["python", "-c", "pass"],
        ["python", "-"],
        ["python", "train"],
        ["no-python", "train.py"],
    ],
    ids=" ".join,
)
def test_every_other_command_is_a_process_of_its_own(command: list[str]) -> None:
    if command[0] != "/usr/bin/python3" or OWN.parent != Path("/usr/bin"):
        assert program(*command) is None


def test_what_libraries_read_when_they_are_loaded_is_told_from_what_a_job_may_change() -> None:
    early = ["PYTHONPATH", "PYTHONHASHSEED", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "LD_PRELOAD",
             "TORCH_LOGS", "PYTORCH_CUDA_ALLOC_CONF", "CUDA_LAUNCH_BLOCKING", "MPLBACKEND", "TZ",
             "HOME", "LC_ALL"]  # fmt: skip
    late = ["CUDA_VISIBLE_DEVICES", "WANDB_MODE", "HF_TOKEN", "SPECTRAIN_JOB_ID", "HOMEPAGE"]
    assert set(read_at_start(dict.fromkeys(early + late, "1"))) == set(early)


def test_a_programs_own_modules_are_seen(tmp_path: Path) -> None:
    (tmp_path / "queue.py").touch()
    assert is_shadowed({"queue", "torch"}, tmp_path, tmp_path)
    assert not is_shadowed({"torch"}, tmp_path, tmp_path)
    assert not is_shadowed({"queue", "torch"}, None, tmp_path)
    (tmp_path / "torch").mkdir()
    assert is_shadowed({"torch"}, tmp_path, tmp_path)
    other = tmp_path / "torch"
    (other / "matplotlibrc").touch()
    assert is_shadowed(set(), tmp_path, other), "matplotlib reads it when it is imported"
