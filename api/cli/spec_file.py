"""Job specifications from files: YAML 1.2, of which JSON is a part.

Commands import this module when they are given a file: ruamel.yaml is slow to import.
"""

from __future__ import annotations

import json
from typing import Any

import click
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scanner import Scanner

from jobs.model.spec import JobSpec
from workload.refusals import refusals


class SpecFileError(click.ClickException):
    """The file holds no specification; the message names line or fields."""


_MAX_BRACKETS = 100
_TOO_DEEP = "It is nested too deeply."


class _Scanner(Scanner):
    """Refuses open brackets that would take seconds: each costs a look at all before it."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803
        if self.flow_level == _MAX_BRACKETS:
            raise SpecFileError(_TOO_DEEP)
        super().fetch_flow_collection_start(TokenClass, to_push)


class _Constructor(SafeConstructor):
    """Keeps dates as text: a job has none, and a label may look like one."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def read_spec(text: bytes) -> JobSpec:
    """The specification in `text`; raises `SpecFileError`."""
    yaml = YAML(typ="safe", pure=True)  # pure: YAML 1.2, which the library's C parser does not read
    yaml.Scanner = _Scanner
    yaml.Constructor = _Constructor
    try:
        data = yaml.load(text)
    except (YAMLError, ValueError) as error:
        raise SpecFileError(f"It is no valid YAML or JSON: {_place(error)}") from None
    except RecursionError:
        raise SpecFileError(_TOO_DEEP) from None
    try:
        return JobSpec.model_validate_json(json.dumps(data))
    except ValidationError as error:
        lines = map(str, refusals(JobSpec, error))
        raise SpecFileError("\n  ".join(["The specification is refused:", *lines])) from None
    except (TypeError, ValueError) as error:
        raise SpecFileError(f"It is no specification: {error}") from None


def _place(error: Exception) -> str:
    """What is wrong, and where in the file."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, MarkedYAMLError) or mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
