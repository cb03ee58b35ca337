"""Shell completion: in bash itself, and as other shells ask for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.cli.main import cli
from jobs.model.spec import JobSpec
from jobs.store.jobs import JobStore

SPECTRAIN = Path(sys.executable).with_name("spectrain")


def complete(shell: str, words: str, **env: str) -> list[str]:
    """What a shell is offered for the last word."""
    parts = words.split(" ")
    asked = {
        "_SPECTRAIN_COMPLETE": f"{shell}_complete", "COMP_WORDS": f"spectrain {words}",
        "COMP_CWORD": parts[-1] if shell == "fish" else str(len(parts)), **env,
    }  # fmt: skip
    done = subprocess.run(
        [SPECTRAIN], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.stderr == "", "nothing may be printed into the line that is typed"
    return done.stdout.split()


@pytest.fixture
def ids(store: JobStore) -> list[str]:
    """Ids of three jobs, newest last."""
    specs = (JobSpec(name=name, command=["true"]) for name in ("wave", "wave", "other"))
    return [store.submit(spec).id for spec in specs]


def test_bash_completes_commands_options_and_ids(api_url: str, ids: list[str]) -> None:
    script = CliRunner().invoke(cli, ["completion", "bash"]).stdout
    assert "complete -o nosort -F" in script
    typed = f"""
{script}
try() {{
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _spectrain_completion {SPECTRAIN}; echo "${{COMPREPLY[@]}}"
}}
try spectrain wat
try spectrain submit --dry
try spectrain show wave-
try spectrain --url {api_url} logs --tail 3 other
try spectrain compare {ids[0]} wave
"""
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "--norc", "-c", typed], capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "SPECTRAIN_URL": api_url},
    )  # fmt: skip
    assert done.stderr == ""
    commands, options, shown, other, compared = done.stdout.splitlines()
    assert commands == "watch"
    assert options == "--dry-run"
    assert shown.split() == ids[1::-1], "newest first"
    assert other == ids[2]
    assert set(compared.split()) == set(ids[:2])


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_told_the_same(api_url: str, ids: list[str], shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell]).stdout
    assert f"_SPECTRAIN_COMPLETE={shell}_complete" in script
    offered = complete(shell, "cancel oth", SPECTRAIN_URL=api_url)
    assert any(ids[2] in word for word in offered)


@pytest.mark.usefixtures("ids")
@pytest.mark.parametrize("trouble", ["nobody", "token", "profile"])
def test_trouble_is_silent_and_short(api_url: str, trouble: str, tmp_path: Path) -> None:
    env = {
        "nobody": {"SPECTRAIN_URL": "http://127.0.0.1:1"},
        "token": {"SPECTRAIN_API_TOKEN_FILE": str(tmp_path / "missing")},
        "profile": {"SPECTRAIN_URL": "", "SPECTRAIN_PROFILE": "missing"},
    }[trouble]
    assert complete("bash", "show wave", **{"SPECTRAIN_URL": api_url, **env}) == []
