"""The reference pages say what models, application, command line and library say."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import click
import pytest

import api.client
import monitoring
from api.cli.main import cli
from api.server.app import create_app
from jobs.model.spec import JobSpec
from jobs.settings import Settings
from tools.reference.pages import PARTS, ROOT, page

REFERENCE = ROOT / "docs/reference"


def anchors(name: str) -> set[str]:
    return set(re.findall(r'<a id="([^"]+)"></a>', (REFERENCE / name).read_text()))


@pytest.mark.parametrize("path", PARTS)
def test_a_generated_page_is_current(path: str) -> None:
    assert (ROOT / path).read_text() == page(path), "run `make reference`, and commit the result"


def key_paths(model: type, prefix: str = "") -> set[str]:
    """Every key of a model, found by its fields and not by its JSON schema."""
    found = set()
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        found.add(f"{prefix}{name}")
        parts = getattr(field.annotation, "__args__", (field.annotation,))
        for part in parts:
            if inspect.isclass(part) and hasattr(part, "model_fields"):
                found |= key_paths(part, f"{prefix}{name}.")
    return found


def test_every_key_of_a_job_has_an_anchor_in_the_job_file_reference() -> None:
    paths = key_paths(JobSpec)
    assert {"name", "train.model.d_model", "checkpoint.every_steps"} <= paths
    # A job file says where the files are; the service gets what was sent.
    assert anchors("job-file.md") == paths | {"workspace.path", "workspace.exclude"}


def test_every_key_of_a_job_is_two_clicks_from_the_readme() -> None:
    assert "(docs/reference/job-file.md)" in (ROOT / "README.md").read_text()
    links = set(re.findall(r"\]\(#([\w.]+)\)", (REFERENCE / "job-file.md").read_text()))
    assert key_paths(JobSpec) <= links


def test_every_route_of_the_application_is_in_the_http_reference(tmp_path: Path) -> None:
    app = create_app(Settings(storage_url=f"file://{tmp_path}"))
    text = (REFERENCE / "http-api.md").read_text()
    rules = list(app.url_map.iter_rules())
    assert len(rules) > 20
    for rule in rules:
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
        assert f"### `{method} {path}`\n" in text


def test_every_error_that_a_call_names_is_explained() -> None:
    text = (REFERENCE / "http-api.md").read_text()
    named = {
        status
        for line in re.findall(r"^\[Errors\]\(#errors\): (.*)\.$", text, re.M)
        for status in re.findall(r"\d+", line)
    }
    assert {"401", "409", "422"} <= named
    assert named <= set(re.findall(r"^\| `(\d+)` \| [A-Z]", text, re.M))


def test_every_command_argument_and_option_is_in_the_command_line_reference() -> None:
    text = (REFERENCE / "command-line.md").read_text()

    def check(name: str, command: click.Command) -> None:
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section, name
        for one in command.params:
            assert one.help, (name, one.name)
            shown = one.opts if isinstance(one, click.Option) else [one.human_readable_name]
            assert all(f"`{word}`" in section for word in shown), (name, shown)
        for word, inner in getattr(command, "commands", {}).items():
            check(f"{name} {word}", inner)

    check("spectrain", cli)


def test_every_public_name_of_the_library_and_the_client_has_an_entry() -> None:
    found = anchors("python-library.md")
    wanted = {f"monitoring.{name}" for name in monitoring.__all__}
    owners = {f"monitoring.{name}": getattr(monitoring, name) for name in monitoring.__all__}
    owners["api.client.Client"] = api.client.Client
    for name, owner in owners.items():
        if inspect.isclass(owner) and not issubclass(owner, Exception):
            wanted |= {f"{name}.{one}" for one in vars(owner) if not one.startswith("_")}
    assert {"monitoring.CheckpointManager.save_checkpoint", "api.client.Client.submit"} <= wanted
    assert wanted - found == set()


def test_every_metric_of_the_dashboard_and_the_alerts_is_in_the_metrics_reference() -> None:
    files = ["helm/spectrain/files/dashboard.json", "helm/spectrain/templates/monitoring.yaml"]
    text = "".join((ROOT / file).read_text() for file in files)
    used = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in re.findall(r"\bspectrain_[a-z_]+[a-z]\b", text)
    }
    assert "spectrain_jobs_ended_total" in used
    assert used <= anchors("metrics.md")


@pytest.mark.parametrize("name", ["job-file.md", "http-api.md", "metrics.md", "command-line.md"])
def test_every_row_of_a_reference_says_what_it_is_about(name: str) -> None:
    text = (REFERENCE / name).read_text()
    lines = re.findall(r"^\| (?!---)(.*) \|$", text, re.M)
    rows = [re.split(r"(?<!\\) \| ", f"{line} ") for line in lines]
    assert len(rows) > 15
    assert [row[0] for row in rows if len(row) > 1 and not row[-1].strip()] == []
