"""What a job needs on a worker beside its code: packages, an interpreter, inputs."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from workload.settings import Strict

INPUTS_VARIABLE = "SPECTRAIN_INPUTS"
# The forms of a file that names packages; a script has them in its header (PEP 723).
REQUIREMENTS_FORMS = (".txt", ".in", "pyproject.toml", "uv.lock", ".py")
_FORMS = "a requirements file (*.txt), pyproject.toml, uv.lock, or a script (*.py)"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


def _requirements(path: str) -> str:
    if not path.endswith(REQUIREMENTS_FORMS):
        raise ValueError(f"name {_FORMS}, not {path!r}")
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts:
        raise ValueError(f"a path within the workspace, not {path!r}")
    return path


def _interpreter(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(
            f"the whole path of an interpreter on the worker, such as /opt/conda/bin/python, not "
            f"{path!r}"
        )
    return path


def _input(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "s3":
        if not _BUCKET.fullmatch(parts.netloc) or not parts.path.strip("/"):
            raise ValueError(f"s3://bucket/prefix, not {url!r}")
    elif parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or parts.path in {"", "/"}:
            raise ValueError(f"file:///absolute/path, which the workers see, not {url!r}")
    elif parts.scheme in {"http", "https"}:
        if parts.password is not None or parts.username is not None:
            raise ValueError("no name and password in the URL of an input: it is shown to all")
        if not parts.netloc:
            raise ValueError(f"https://host/file, not {url!r}")
    else:
        raise ValueError(f"s3://bucket/prefix, file:///path or https://host/file, not {url!r}")
    return url


# It becomes a file name; a suffix may matter to the program that reads it.
InputName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$")]
InputUrl = Annotated[
    str, Field(max_length=2048, pattern=r"^[^\x00-\x20\x7f]+$"), AfterValidator(_input)
]
RequirementsPath = Annotated[
    str,
    Field(min_length=1, max_length=4096, pattern=r"^[^\x00\n]*$"),
    AfterValidator(_requirements),
]
Interpreter = Annotated[
    str, Field(max_length=4096, pattern=r"^[^\x00\n:]*$"), AfterValidator(_interpreter)
]


class Environment(Strict):
    """The Python packages of a program, on top of those that the worker has."""

    requirements: RequirementsPath = Field(
        description="File of the workspace that names them: a requirements file (`*.txt`), "
        "`pyproject.toml`, `uv.lock`, or a script with inline metadata (PEP 723)."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: Any) -> Any:
        return {"requirements": given} if isinstance(given, str) else given
