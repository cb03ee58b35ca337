"""Job specifications from files: YAML, of which JSON is a part."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml
from pydantic import ValidationError

from jobs.model.spec import JobSpec
from workload.refusals import refusals


class SpecFileError(Exception):
    """The file holds no specification; the message names line or fields."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, in which `1e-3` is a number, `no` a word and `12:30` no minutes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping; a key that comes twice is refused, for one of its values would be lost."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(None, None, f"{key!r} comes twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


# Without those of YAML 1.1, which the loader would inherit.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"|~|null|Null|NULL", ["", "~", "n", "N"]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_spec(text: bytes) -> JobSpec:
    """The specification in `text`; raises `SpecFileError`."""
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - a safe loader with fewer types
    except yaml.YAMLError as error:
        raise SpecFileError(f"It is neither YAML nor JSON: {error}") from None
    try:
        return JobSpec.model_validate_json(json.dumps(data))
    except ValidationError as error:
        lines = map(str, refusals(JobSpec, error))
        raise SpecFileError("\n  ".join(["The specification is refused:", *lines])) from None
    except (TypeError, ValueError) as error:
        raise SpecFileError(f"It is no specification: {error}") from None
