"""Generates the chart's README from its values: `python helm/readme.py`.

The comment right above a value that begins with `# --` describes it. A value without such a comment
must be a group of described values.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

HELM = Path(__file__).parent
CHART = HELM / "spectrain"
_MARK = "# -- "


class UndescribedError(Exception):
    """A value has no comment; the message names it."""


def rows(values: str) -> Iterator[tuple[str, str, str]]:
    """The path, default and description of each value."""
    root = yaml.compose(values)
    assert isinstance(root, yaml.MappingNode)
    yield from _rows(root, values.splitlines(), "")


def _rows(node: yaml.MappingNode, lines: list[str], prefix: str) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        path = f"{prefix}{key.value}"
        above = lines[key.start_mark.line - 1].strip()
        if above.startswith(_MARK):
            yield path, _default(value), above.removeprefix(_MARK)
        elif isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            yield from _rows(value, lines, f"{path}.")
        else:
            raise UndescribedError(f"values.yaml: {path} has no comment that begins with {_MARK!r}")


def _default(node: yaml.Node) -> str:
    """The value as one line of YAML."""
    text = yaml.serialize(_flat(node), width=10_000).strip()
    return text.removesuffix("...").strip()


def _flat(node: yaml.Node) -> yaml.Node:
    if isinstance(node, yaml.SequenceNode):
        return yaml.SequenceNode(node.tag, [_flat(n) for n in node.value], flow_style=True)
    if isinstance(node, yaml.MappingNode):
        pairs = [(key, _flat(value)) for key, value in node.value]
        return yaml.MappingNode(node.tag, pairs, flow_style=True)
    return node


def table(values: str) -> str:
    """The values as tables, one for each top-level group."""
    groups: dict[str, list[str]] = {}
    for path, default, description in rows(values):
        group = path.split(".")[0] if "." in path else ""
        cells = f"| `{path}` | `{default}` | {description} |"
        groups.setdefault(group, []).append(cells)
    head = "| value | default | description |\n| --- | --- | --- |\n"
    return "\n\n".join(
        (f"### {group}\n\n" if group else "") + head + "\n".join(lines)
        for group, lines in groups.items()
    )


def readme() -> str:
    """The text of the README, generated anew."""
    template = (HELM / "README.template.md").read_text()
    return template.replace("{{values}}", table((CHART / "values.yaml").read_text()))


if __name__ == "__main__":
    (CHART / "README.md").write_text(readme())
