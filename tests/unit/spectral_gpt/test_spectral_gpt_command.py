"""The command line and the package's door."""

import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from spectral_gpt.__main__ import main, new_run_dir
from spectral_gpt.config import TrainConfig
from tests.forked import Forked

REPOSITORY = Path(__file__).parents[3]


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, spectral_gpt, spectral_gpt.config, spectral_gpt.__main__;"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_the_package_are_there_when_asked_for() -> None:
    import spectral_gpt
    from spectral_gpt.model import GPT

    assert spectral_gpt.GPT is GPT
    assert {"GPT", "QFE", "RGD", "TrainConfig"} <= set(dir(spectral_gpt))
    with pytest.raises(AttributeError, match="no attribute 'Quantum'"):
        spectral_gpt.Quantum  # noqa: B018


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"modell": {}}',
            "spectral_gpt: modell: given {}, allowed: unknown field; did you",
        ),
        ("{", "config.json is no JSON: "),
        (None, "cannot read "),
        (
            '{"dataset": {"name": "path", "location": "/no/such.txt"}}',
            "spectral_gpt: dataset.location: cannot read /no/such.txt",
        ),
    ],
)
def test_what_cannot_start_ends_with_2_and_one_line_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    config = tmp_path / "config.json"
    if content is not None:
        config.write_text(content)
    assert main(["--config", str(config), "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_directory_gets_one_named_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = new_run_dir(TrainConfig())
    assert run_dir.parent == Path("experiments")
    assert run_dir.name.startswith("wave_rgd_qfe_")
    assert run_dir.is_dir()


def test_the_example_trains_resumes_and_leaves_the_layout_of_a_run(tmp_path: Path) -> None:
    example = str(REPOSITORY / "examples" / "tiny.py")

    def program(steps: str) -> None:
        sys.argv = [example, str(tmp_path / "run"), steps]
        runpy.run_path(example, run_name="__main__")

    for steps, said in (("60", "Starting from scratch"), ("90", "Resumed from step 50")):
        with Forked(partial(program, steps)) as example_run:
            assert example_run.wait() == 0, example_run.stderr
            assert said in example_run.stdout
            assert not example_run.stderr
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*")}
    assert files >= {
        "config.json",
        "results.json",
        "logs/metrics.jsonl",
        "checkpoints/checkpoint_step_50.pt",
        "checkpoints/checkpoint_latest.pt",
    }
