"""Job specifications from files: YAML 1.2, of which JSON is a part.

Commands import this module when they are given a file: ruamel.yaml is slow to import.
"""

from __future__ import annotations

import json
from typing import Any

import click
from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.composer import ComposerError
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.scanner import Scanner

from jobs.model.spec import JobSpec
from jobs.model.words import SUBMITTED
from workload.refusals import refusals


class SpecFileError(click.ClickException):
    """The file holds no specification; the message names line or fields."""


_MAX_BRACKETS = 100
_TOO_DEEP = "It is nested too deeply."
_MAX_BYTES = 1 << 20  # of a request, to the service


class _Scanner(Scanner):
    """Refuses open brackets that would take seconds: each costs a look at all before it."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803
        if self.flow_level == _MAX_BRACKETS:
            raise SpecFileError(_TOO_DEEP)
        super().fetch_flow_collection_start(TokenClass, to_push)


# The keys whose numbers are words of a program: they stay as they are written.
_WORDS = {"command", "resume_command", "resume_args", "env", "envs"}
_NUMBERS = {f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool")}
_SINGLE = "expected a single document in the stream"  # in the words of the library
_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"


class _Constructor(SafeConstructor):
    """Keeps dates as text: a job has none, and a label may look like one.

    It also keeps the numbers in commands and variables as they are written: `1e-3`, `0.10`, `08`.
    """

    def construct_document(self, node: Node) -> Any:
        """What the document says."""
        return super().construct_document(_Written().node(node, in_words=False))


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def read_spec(text: bytes) -> JobSpec:
    """The specification in `text`; raises `SpecFileError`."""
    return checked(read_data(text))


def read_data(text: bytes) -> Any:
    """What the document in `text` says; raises `SpecFileError`."""
    yaml = YAML(typ="safe", pure=True)  # pure: YAML 1.2, which the library's C parser does not read
    yaml.Scanner = _Scanner
    yaml.Constructor = _Constructor
    try:
        data = yaml.load(text)
    except (YAMLError, ValueError) as error:
        if isinstance(error, ComposerError) and error.context == _SINGLE:
            raise SpecFileError("It holds several documents: give each job a file.") from None
        raise SpecFileError(f"It is no valid YAML or JSON: {_place(error)}") from None
    except RecursionError:
        raise SpecFileError(_TOO_DEEP) from None
    _as_json(data)
    return data


def checked(data: Any) -> JobSpec:
    """The specification that a document says; raises `SpecFileError`."""
    try:
        return JobSpec.model_validate_json(_as_json(data), context=SUBMITTED)
    except ValidationError as error:
        lines = map(str, refusals(JobSpec, error))
        raise SpecFileError("\n  ".join(["The specification is refused:", *lines])) from None


def _as_json(data: Any) -> str:
    """What a document says, as JSON; raises `SpecFileError` for what JSON has no form of."""
    parts, size = [], 0
    try:
        # Part by part: a short document may name the same thing thousands of times.
        for part in json.JSONEncoder().iterencode(data):
            parts.append(part)
            size += len(part)
            if size > _MAX_BYTES:
                raise SpecFileError("It is larger than the service takes, 1 MiB.")
    except RecursionError:
        raise SpecFileError(_TOO_DEEP) from None
    except (TypeError, ValueError) as error:
        # Also an integer of more digits than Python turns into text.
        raise SpecFileError(f"It is no specification: {error}") from None
    return "".join(parts)


class _Written:
    """Makes of a document one in which the numbers in words and variables are text.

    The nodes are new ones, since other keys may refer to the same; each is made once.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, bool], Node] = {}

    def node(self, node: Node, *, in_words: bool) -> Node:
        """A job, or the words or variables of one."""
        key = id(node), in_words
        if key not in self._made:
            self._made[key] = self._new(node, in_words)
        return self._made[key]

    def _new(self, node: Node, in_words: bool) -> Node:
        if isinstance(node, MappingNode):
            pairs = [(key, self._value(key, value, in_words)) for key, value in node.value]
            return MappingNode(node.tag, pairs, node.start_mark, node.end_mark, node.flow_style)
        if in_words and isinstance(node, SequenceNode):
            words = [_text_of(item) for item in node.value]
            return SequenceNode(node.tag, words, node.start_mark, node.end_mark)
        return node

    def _value(self, key: Node, value: Node, in_words: bool) -> Node:
        if key.tag == _MERGE and isinstance(value, SequenceNode):
            merged = [self.node(each, in_words=in_words) for each in value.value]
            return SequenceNode(value.tag, merged, value.start_mark, value.end_mark)
        if key.tag == _MERGE:
            return self.node(value, in_words=in_words)
        if in_words:
            return _text_of(value)
        named = isinstance(key, ScalarNode) and key.value in _WORDS
        return self.node(value, in_words=True) if named else value


def _text_of(node: Node) -> Node:
    if isinstance(node, ScalarNode) and node.tag in _NUMBERS and node.style is None:
        return ScalarNode(_TEXT, node.value, node.start_mark, node.end_mark)
    return node


def _place(error: Exception) -> str:
    """What is wrong, and where in the file."""
    mark = getattr(error, "problem_mark", None)
    if not isinstance(error, MarkedYAMLError) or mark is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
