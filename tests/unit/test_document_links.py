"""Every link, path and dotted name in the documents leads somewhere."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "helm/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "README.template.md"
)
ROOMS = (
    "api",
    "bench",
    "jobs",
    "machine",
    "monitoring",
    "spectrain",
    "spectral_gpt",
    "tools",
    "worker",
    "workload",
    "workspaces",
)
FOLDERS = (*ROOMS, "deploy", "docs", "examples", "helm", "tests")
# Modules of a design that is not built: docs/internet-scale.md proposes them.
PROPOSED = {"worker.rank"}

documents = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)


def prose(path: Path) -> str:
    """The text without fenced blocks, in which nothing is a link or a heading."""
    return re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """What a link may name after #: explicit anchors, and headings as GitHub spells them."""
    text = prose(path)
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        numbered = (f"{slug}-{number}" for number in itertools.count(1))
        found.add(next(one for one in itertools.chain([slug], numbered) if one not in found))
    return found


def links(path: Path) -> list[str]:
    without_code = re.sub(r"`[^`\n]*`", "", prose(path))  # a regular expression is no link
    return re.findall(r"\]\(([^)\s]+)\)", without_code)


@documents
def test_every_relative_link_and_anchor_leads_somewhere(path: Path) -> None:
    for target in links(path):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        assert there.exists(), f"{target}: there is no such file"
        assert there.is_relative_to(ROOT), f"{target}: it leads out of the repository"
        if anchor:
            assert anchor in anchors(there), f"{target}: there is no such heading"


def spelled_out(text: str) -> list[str]:
    """`a/{b,c}.py` as `a/b.py` and `a/c.py`."""
    match = re.search(r"\{([^{}]+)\}", text)
    if match is None:
        return [text]
    parts = match[1].split(",")
    return [text[: match.start()] + part.strip() + text[match.end() :] for part in parts]


@documents
def test_every_path_that_a_document_names_exists(path: Path) -> None:
    for code in re.findall(r"`([^`\s]+)`", prose(path)):
        for name in spelled_out(code):
            if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*", name):
                assert (ROOT / name).exists(), f"there is no {name}"


@documents
def test_every_dotted_name_that_a_document_names_exists(path: Path) -> None:
    for name in re.findall(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)(?:\([^`]*\))?`", prose(path)):
        if name in PROPOSED or name.endswith((".py", ".yaml", ".md", ".json")):
            continue
        assert resolves(name) or is_value(name), f"there is no {name}"


def defined(path: Path) -> set[str]:
    """The names that a file defines; methods as `Class.method`."""
    text = path.read_text()
    if path.suffix == ".lua":
        return set(re.findall(r"^local function (\w+)", text, re.M))
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            inner = (one.name for one in node.body if isinstance(one, ast.FunctionDef))
            found |= {f"{node.name}.{name}" for name in inner}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {one.id for one in targets if isinstance(one, ast.Name)}
    return found


@documents
def test_a_document_says_rightly_in_which_file_a_name_is(path: Path) -> None:
    for name, file in re.findall(r"`([\w.]+)` in\s+`([\w/]+\.(?:py|lua))`", prose(path)):
        assert name in defined(ROOT / file), f"{file} defines no {name}"


def test_the_guide_for_contributors_answers_where_things_are() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition("\n## Where to find things\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+\?) \| (.+) \|$", section, re.M)
    assert len(rows) >= 10
    for subject in ("lost job", "checkpoint committed", "spot notice", "queue's order"):
        (answer,) = (answer for question, answer in rows if subject in question)
        assert re.search(r"`\w+` in `[\w/]+\.(py|lua)`", answer), subject
    for question, answer in rows:
        assert re.search(r"`[\w/]+(\.py|\.lua|/)`", answer), question


def is_value(name: str) -> bool:
    """Whether it is a value of the Helm chart."""
    value = yaml.safe_load((ROOT / "helm/spectrain/values.yaml").read_text())
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True


def resolves(name: str) -> bool:
    """Whether the name is a module, or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            continue
        if found is not None:
            owner = importlib.import_module(module)
            for part in parts[length:]:
                annotated = getattr(owner, "__annotations__", {})
                fields = getattr(owner, "model_fields", {})
                if not hasattr(owner, part) and part not in {*annotated, *fields}:
                    return False
                owner = getattr(owner, part, None)
            return True
    return False


def test_the_index_of_the_documents_lists_every_page() -> None:
    index = ROOT / "docs/README.md"
    listed = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    decisions = ROOT / "docs/decisions/README.md"
    listed |= {(decisions.parent / link.partition("#")[0]).resolve() for link in links(decisions)}
    pages = {path for path in (ROOT / "docs").rglob("*.md") if path != index}
    assert pages - listed == set()


def test_decisions_are_numbered_without_a_gap_and_say_why() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("0*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        headings = re.findall(r"^## (.+)$", page.read_text(), re.M)
        assert headings == ["Context", "Decision", "Consequences"], page.name
        assert page.read_text().startswith(f"# {int(page.name[:4])}. "), page.name


def test_the_architecture_page_is_short() -> None:
    assert len((ROOT / "docs/architecture.md").read_text().splitlines()) <= 150
