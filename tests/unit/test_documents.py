"""What the documents say is so."""

from __future__ import annotations

import re
from pathlib import Path

from click.testing import CliRunner

from api.cli.main import cli
from api.cli.spec_file import read_data
from api.client.workspaces import source_of
from jobs.model.spec import JobSpec
from jobs.settings import Settings

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language in all documents."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.M | re.S)
    return [block for path in DOCUMENTS for block in pattern.findall(path.read_text())]


def test_every_documented_setting_exists() -> None:
    text = (ROOT / "docs/settings.md").read_text()
    settings = {f"SPECTRAIN_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"^\| `(SPECTRAIN_\w+)`", text, re.M))
    commands = {"SPECTRAIN_URL", "SPECTRAIN_API_TOKEN", "SPECTRAIN_PROFILE"}
    assert named == settings | commands


def test_every_job_in_the_documents_is_one() -> None:
    jobs = blocks("yaml")
    assert jobs
    for text in jobs:
        job = read_data(text.encode())  # YAML 1.2, in which `on` is a word
        if source_of(job) is not None:
            job["workspace"] = {"sha256": "0" * 64, "files": 0, "bytes": 0}
        JobSpec.model_validate(job)


def test_every_python_block_compiles() -> None:
    for text in blocks("python"):
        compile(text, "document", "exec")


def test_every_command_in_the_documents_exists() -> None:
    lines = [line for block in blocks("(?:sh|bash)") for line in block.splitlines()]
    names = {words[1] for line in lines if (words := line.split())[:1] == ["spectrain"]}
    targets = {words[1] for line in lines if (words := line.split())[:1] == ["make"]}
    assert names
    assert names <= set(cli.commands)
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for name in names:
        assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_every_test_that_the_documents_name_is_there() -> None:
    text = "".join((ROOT / "docs" / name).read_text() for name in ("failures.md", "security.md"))
    named = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", text)
    assert len(named) > 20
    for name, path in named:
        assert f"def {name}(" in (ROOT / path).read_text(), f"{path}: {name}"
