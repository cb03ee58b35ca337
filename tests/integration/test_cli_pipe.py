"""In a pipe every command prints plain text: no escape codes, no spaces at the ends of lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.cli.main import cli
from api.render.terminal import print_output
from jobs.model.record import Attempt
from jobs.model.spec import JobSpec
from jobs.model.states import Reason
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from jobs.store.registry import WorkerRegistry
from tests.integration.one_worker import worker_settings

RED = "\x1b[1;31mred\x1b[0m \x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\"
ROOT = Path(__file__).parents[2]
# They run until they are stopped, or run whole services; their consoles are those of the others.
ENDLESS = {"api", "worker", "reaper", "up", "demo", "drill"}
COMMANDS = {  # in an order in which each finds what it needs
    "ls": [],
    "submit": ["job.json"],
    "show": ["{failed}"],
    "logs": ["{failed}"],
    "watch": [],
    "events": [],
    "audit": [],
    "metrics": ["{failed}"],
    "plot": ["{failed}"],
    "diff": ["{failed}", "{running}"],
    "compare": ["{failed}", "{running}"],
    "fork": ["{failed}"],
    "open": ["{failed}"],
    "preempt": ["{running}"],
    "pause": ["{running}"],
    "resume": ["{running}"],
    "cancel": ["{running}"],
    "retry": ["{failed}"],
    "change": ["{running}", "--priority", "7"],
    "fetch": ["{failed}", "out"],
    "rm": ["{failed}"],
    "completion": ["zsh"],
    "redis-acl": [],
    "workers": [],
    "pools": [],
    "token": ["ls"],
    "doctor": [],
    "reindex": ["--dry-run"],
    "gc": ["--dry-run"],
}
REFUSED = {"doctor", "fork", "plot", "pause", "resume", "retry", "reindex", "rm"}


@pytest.fixture
def jobs(settings: Settings, store: JobStore) -> dict[str, str]:
    """A job that failed with colours, and one that runs on a worker with a coloured reason."""
    spec = JobSpec(name="a", command=["true"], labels={"a": RED}, retry={"max_failures": 0})
    found = {}
    for name in ("failed", "running"):
        store.submit(spec)
        claimed = store.claim("default", "w")
        assert claimed is not None
        found[name] = claimed.id
        if name == "failed":
            ended = Attempt(
                number=1, worker="w", started_at=1.0, ended_at=2.0, reason=Reason.ERROR,
                message=f"{RED} " + "x" * 900, exit_code=1, log_tail=[RED, "  indented"],
            )  # fmt: skip
            store.finish(claimed.id, ended)
    log = Path(settings.storage_url.removeprefix("file://"), found["failed"], "logs/output.log")
    log.parent.mkdir(parents=True)
    log.write_text(f"[1] {RED}\n" * 3)
    WorkerRegistry(store.redis, prefix=store.prefix, lease_seconds=60).renew(
        "w", pool="default", host="w", gpus=[], unhealthy=RED, leaving="", drained=False
    )
    return found


def test_each_command_is_run_into_a_pipe() -> None:
    assert COMMANDS.keys() == cli.commands.keys() - ENDLESS


def test_every_command_prints_plain_text_into_a_pipe(
    api_url: str,
    jobs: dict[str, str],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.json").write_text('{"name": "b", "command": ["true"]}')
    env = worker_settings(settings) | {"SPECTRAIN_URL": api_url, "FORCE_COLOR": "1"}
    printed = {}
    for name, given in COMMANDS.items():
        arguments = [argument.format(**jobs) for argument in given]
        done = CliRunner().invoke(cli, [name, *arguments], env=env)
        printed[name] = done.output
        assert done.exit_code == 0 or name in REFUSED, f"{name}: {done.output}"
        assert "\x1b" not in done.output, name
        assert not re.search(r"[ \t]$", done.output, re.M), name
    assert max(map(len, printed["ls"].splitlines())) < 120
    assert "x" * 900 in printed["show"], "a line is not folded"
    assert "red link" in printed["show"]
    assert "    indented" in printed["show"]
    assert "red link" in printed["workers"]
    assert printed["logs"] == "[1] red link\n" * 3


def test_every_console_is_that_of_one_place() -> None:
    made = [path for path in ROOT.glob("api/**/*.py") if re.search(r"Console\(", path.read_text())]
    assert made == [ROOT / "api/render/terminal.py"]


def test_a_code_that_comes_in_two_pieces_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    print_output(iter(["a\x1b[3", "1mb\nc", "d\x1b[0m"]))
    assert capsys.readouterr().out == "ab\ncd"
