"""Every key of Redis is spelled in `jobs.store`, and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from jobs.store import keys
from jobs.store.keys import Keys

ROOT = Path(__file__).resolve().parents[3]
_HOME = ROOT / "jobs" / "store"
_SPELLED = re.compile(r"^spectrain:[a-z]")
_LISTED = re.findall(r"^\| `([^`]+)` \|", str(keys.__doc__), re.MULTILINE)
_HEADS = tuple({name.partition(":")[0] for name in _LISTED})


def sources() -> list[Path]:
    rooms = ("api", "bench", "jobs", "machine", "worker", "tests")
    found = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    return [file for file in found if _HOME not in file.parents and file != Path(__file__)]


def raw_keys(tree: ast.AST) -> Iterator[ast.expr]:
    """Texts that spell a key: a prefix with the name of a key behind it, or the default one."""
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if _SPELLED.match(text):
                yield node
            case ast.JoinedStr(values=[ast.FormattedValue(value=prefix), rest, *_]):
                if _is_key(prefix, rest):
                    yield node
            case ast.BinOp(left=prefix, op=ast.Add(), right=rest):
                if _is_key(prefix, rest):
                    yield node


def _is_key(prefix: ast.expr, rest: ast.expr) -> bool:
    name = ast.unparse(prefix)
    if isinstance(rest, ast.Constant):
        return name.endswith("prefix") and str(rest.value).startswith(_HEADS)
    return name.endswith(("redis_prefix", "store.prefix"))


def test_the_list_of_keys_is_what_the_class_spells() -> None:
    found = set()
    for name, member in vars(Keys).items():
        if isinstance(member, property):
            found.add(getattr(Keys(""), name))
        elif name == "pool":
            found |= {Keys("").pool("{pool}", index) for index in get_args(keys.PoolIndex)}
        elif name == "of_owner":
            found |= {
                Keys("").of_owner("{pool}", index, "{owner}") for index in ("queued", "running")
            }
        elif name == "idempotency":
            found.add(Keys("").idempotency("{owner}", "{key}"))
        elif not name.startswith("_") and callable(member):
            found.add(member(Keys(""), f"{{{_argument(name)}}}"))
    assert found == {name for name in _LISTED if name != "key"}


def _argument(name: str) -> str:
    """What the list calls the variable part of a key."""
    part = {"events": "job", "jobs_in": "state"}.get(name, name)
    (found,) = {m[1] for one in _LISTED if (m := re.search(rf"\b{part}:{{(\w+)}}", one))}
    return found


def test_no_key_is_spelled_outside_the_store() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for file in sources()
        for node in raw_keys(ast.parse(file.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        'f"{self._prefix}leases"',
        'f"{prefix}job:{job_id}"',
        'settings.redis_prefix + "workers"',
        "store.prefix + name",
        '"spectrain:outbox"',
    ],
)
def test_a_raw_key_is_recognised(text: str) -> None:
    assert list(raw_keys(ast.parse(text)))


def test_the_api_builds_no_pipeline_and_runs_no_script_of_its_own() -> None:
    own = re.compile(r"\.pipeline\(|register_script|store\.scripts|\.(h|z|x)[a-z]+\(.*keys\.")
    found = [f for f in (ROOT / "api").rglob("*.py") if own.search(f.read_text())]
    assert found == []
